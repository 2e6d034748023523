"""The systems that bundles are compared with, built as their own documentation says: a model file and its runtime."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertline.artifacts.errors import BertlineError
from bertline.bench.systems import System
from bertline.export.quiet import quiet
from bertline.export.sources import Origin
from bertline.tasks.tokens import Text

PRESETS = ("avx2", "avx512", "avx512_vnni")
CALIBRATION = 100
"""Number of texts that NNCF calibrates on."""
LINES = 5
"""How many of its last lines a failed command's error shows."""


def optimum(origin: Origin, folder: Path) -> list[System]:
    """The fp32 export of optimum-cli, and each of its x86 quantization presets, per tensor and per channel."""
    fp32 = folder / "optimum-fp32"
    _cli("export", "onnx", "--model", str(origin.folder), "--task", origin.settings.task, str(fp32))
    made = [_system(origin, "optimum fp32", fp32 / "model.onnx")]
    for preset in PRESETS:
        for words in ([], ["--per_channel"]):
            name = " ".join(["optimum", preset, *("per channel" for _ in words)])
            place = folder / name.replace(" ", "-")
            _cli("onnxruntime", "quantize", "--onnx_model", str(fp32), "-o", str(place), f"--{preset}", *words)
            made.append(_system(origin, name, place / "model_quantized.onnx"))
    return made


def openvino(origin: Origin, fp32: Path, texts: Sequence[Text], folder: Path) -> list[System]:
    """OpenVINO on the fp32 ONNX file, in bf16 if the CPU has it, and on NNCF's int8 model in OpenVINO's own format."""
    with quiet():
        import nncf
        import openvino as ov

        model = ov.convert_model(fp32)
        inputs = {one.any_name for one in model.inputs}
        tokenizer = origin.task.tokenizer(origin.tokenizer)

        def batches() -> Iterator[dict[str, object]]:
            for window in tokenizer.encode(texts[:CALIBRATION]):
                yield {name: array for name, array in tokenizer.pad([window]).items() if name in inputs}

        quantized = nncf.quantize(
            model, nncf.Dataset(list(batches())), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION
        )
        ov.save_model(quantized, folder / "nncf.xml")
    names = {"openvino": fp32, "openvino nncf int8": folder / "nncf.xml"}
    return [System(name, "openvino", path, origin.tokenizer, origin.settings) for name, path in names.items()]


def _system(origin: Origin, name: str, path: Path) -> System:
    return System(name, "onnxruntime", path, origin.tokenizer, origin.settings)


def _cli(*words: str) -> None:
    """Run optimum's command.

    Raises:
        BertlineError: it failed; the message ends with its last lines.
    """
    program = Path(sys.executable).with_name("optimum-cli")
    done = subprocess.run([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-LINES:])
        raise BertlineError(f"optimum-cli {' '.join(words)}: exit code {done.returncode}\n{last}")
