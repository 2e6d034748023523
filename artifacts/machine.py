"""This machine's CPU and its capabilities, as recorded with every measurement.

CPU classes follow from the instruction sets that the kernel reports, never from the CPU's name.
"""

import os
import platform
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

CpuClass = Literal["x86", "avx2", "avx512", "avx512_vnni", "arm64"]

INSTRUCTION_SETS = (
    "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction sets that affect the speed and numerics of an encoder, as Linux spells them."""


class Machine(BaseModel):
    """The CPU, memory and operating system of a measurement."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cpu: str
    """Name of the CPU model."""
    cpu_class: CpuClass
    instruction_sets: list[str]
    cores: int
    """Number of physical cores that the process may use."""
    memory_bytes: int
    system: str
    python: str


def describe() -> Machine:
    """Describe this machine, as far as this process may use it."""
    return Machine(
        cpu=_cpu_name(),
        cpu_class=cpu_class(),
        instruction_sets=instruction_sets(),
        cores=cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def instruction_sets() -> list[str]:
    """The INSTRUCTION_SETS that the CPU has; empty if unknown (no /proc/cpuinfo)."""
    flags = set(_cpuinfo("flags", "Features").split())
    return [name for name in INSTRUCTION_SETS if name in flags]


def cpu_class() -> CpuClass:
    """The class that decides which int8 kernels run; AVX-512 means the sets that ONNX Runtime's kernels need."""
    if platform.machine() in ("aarch64", "arm64"):
        return "arm64"
    has = set(instruction_sets())
    if {"avx512f", "avx512bw", "avx512vl"} <= has:
        return "avx512_vnni" if "avx512_vnni" in has else "avx512"
    return "avx2" if "avx2" in has else "x86"


def computes_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices natively; emulation is a hundred times slower."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(instruction_sets())


def cores() -> int:
    """The number of physical cores that CPU affinity and control groups leave to this process, at least 1."""
    siblings = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu)
                for cpu in os.sched_getaffinity(0)}  # fmt: skip
    return max(1, min([len(siblings), *_quotas()]))


def _quotas() -> Iterator[int]:
    """How many cores' time each limit leaves to this process, rounded down: its control group's and those above it."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        own = Path("/sys/fs/cgroup", *(["cpu"] if controllers else []), group.lstrip("/"))
        for place in (own, *own.parents):
            if not controllers:
                quota, _, period = _read(f"{place}/cpu.max").partition(" ")
            elif "cpu" in controllers.split(","):  # cgroup v1
                quota, period = (_read(f"{place}/cpu.cfs_{name}_us") for name in ("quota", "period"))
            else:
                break
            if quota.isdigit():  # "max" and "-1" mean no limit
                yield int(quota) // int(period)


def numa_nodes() -> int:
    """The number of NUMA nodes with cores that this process may use, at least 1."""
    nodes = [str(node) for node in Path("/sys/devices/system/node").glob("node[0-9]*")]
    allowed = os.sched_getaffinity(0)
    return max(1, sum(any(Path(node, f"cpu{cpu}").exists() for cpu in allowed) for node in nodes))


def versions(*packages: str) -> dict[str, str]:
    """The versions of those `packages` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def free_port() -> int:
    """A port that is free now, so that concurrent runs do not collide."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
