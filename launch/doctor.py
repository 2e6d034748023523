"""`bertline doctor`: what this machine can do for bertline, and what stands in the way.

Every part is checked independently, so that a machine with only the base dependencies gets an answer too.
"""

import importlib.util
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from bertline.artifacts import machine
from bertline.artifacts.errors import install_advice, one_line

PACKAGES = (
    "bertline", "numpy", "tokenizers", "onnxruntime", "openvino", "torch", "deepspeed", "transformers", "datasets",
    "optimum", "optimum-onnx", "onnx", "scikit-learn",
)  # fmt: skip
USE = """
import torch
built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}"
try:
    torch.ones(1, device="cuda")
except Exception as error:
    print(f"NOT USABLE: {built}:", *str(error).split())
else:
    print(f"usable: {built}")
"""
"""Python code that prints whether torch computes on a GPU."""


def facts() -> dict[str, Any]:
    """Machine, GPUs, training, runtimes, security and versions, as plain values."""
    described = machine.describe()
    return {
        "machine": described.model_dump(mode="json"),
        "bf16_on_cpu": machine.computes_bf16(),
        "int8": _int8(described.cpu_class),
        "gpus": _gpus(),
        "training": _training(),
        "runtimes": _runtimes(),
        "security": _security(),
        "versions": machine.versions(*PACKAGES),
    }


def _int8(cpu_class: str) -> str:
    if cpu_class in ("avx512_vnni", "arm64"):
        return "native dot products: signed and unsigned weights are exact"
    return "no AVX-512 VNNI: signed eight-bit weights may saturate, so bundles made here use seven bits"


def _gpus() -> list[str]:
    """One line per GPU, from the driver's own tool, so that torch need not be imported or even installed."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _training() -> dict[str, Any]:
    if importlib.util.find_spec("deepspeed") is None:
        return {"ready": False, "why": f"deepspeed is not installed; {install_advice('train')}"}
    from bertline.launch.devices import Devices

    try:
        ops = _ops()
    except Exception as error:  # of any kind, if torch or DeepSpeed does not fit this machine
        return {"ready": False, "why": f"deepspeed cannot be imported: {_words(error)}"}
    default = Devices.choose()
    return {
        "ready": True,
        "default_ranks": f"{default.ranks} on the {default.kind}",
        "gpus": _torch_on_gpus() if _gpus() else "none",
        "compiler": shutil.which("g++") or "none: needed only for DeepSpeed ops that a recipe's deepspeed section uses",
        "ops": ops,
    }


def _torch_on_gpus() -> str:
    """Whether torch can use the GPUs; tried in another process, because a driver may crash or hang it."""
    try:
        done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "NOT USABLE: torch did not answer within two minutes"
    return done.stdout.strip() or f"NOT USABLE: torch ended with exit code {done.returncode}"


def _ops() -> dict[str, str]:
    """DeepSpeed's ops, and whether each can be built here; CPU ranks need none."""
    with redirect_stdout(StringIO()):  # DeepSpeed logs to stdout that it found no GPU, which `gpus` says as well
        from deepspeed.ops.op_builder.all_ops import ALL_OPS
        from deepspeed.ops.op_builder.builder import probe_is_compatible  # with a GPU and no nvcc, ops raise

        return {name: "yes" if probe_is_compatible(ALL_OPS[name]) else "no" for name in sorted(ALL_OPS)}


def _runtimes() -> dict[str, Any]:
    return {
        "onnxruntime": _onnxruntime(),
        "openvino": machine.versions("openvino").get("openvino", "not installed"),
    }


def _onnxruntime() -> dict[str, Any] | str:
    try:
        import onnxruntime
    except Exception as error:  # a library that it needs is missing
        return f"NOT USABLE: {_words(error)}"
    return {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def _words(error: Exception) -> str:
    """An error in one line."""
    return one_line(f"{type(error).__name__}: {error}")


def _security() -> dict[str, str]:
    installed = importlib.util.find_spec("kernels") is not None
    return {
        "kernels": "INSTALLED, so model folders are refused: pip uninstall kernels" if installed else "not installed",
        "CVE-2026-4372": "affects transformers below 5.3 through kernels; config.json is checked before it is opened",
        "weights": "safetensors only; trust_remote_code is never on",
    }
