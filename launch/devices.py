"""The devices that the ranks of a run compute on: GPUs of this machine, shares of its CPU, or slots of a hostfile.

GPUs are counted with `nvidia-smi`, to avoid loading torch.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError


@dataclass(frozen=True)
class Devices:
    """The devices of a run, one for each rank."""

    kind: Literal["gpu", "cpu", "hosts"]
    """GPUs of this machine, shares of its CPU, or whatever the machines of a hostfile have."""
    slots: dict[str, list[str]]
    """A device per rank by machine: a GPU of this one as CUDA_VISIBLE_DEVICES names it, else a number."""
    hostfile: Path | None = None

    @property
    def ranks(self) -> int:
        """The number of ranks on all machines."""
        return sum(map(len, self.slots.values()))

    @classmethod
    def choose(cls, gpus: int | None = None, ranks: int | None = None, hostfile: Path | None = None) -> "Devices":
        """The devices that the flags of the same names ask for; by default those that this machine has.

        By default there is one rank per GPU that CUDA may use or, without a GPU, one per NUMA node of the CPU: on one
        node, a single rank with all cores was measured to be at least as fast as several with one core each.

        Raises:
            InputError: more than one is given; more GPUs than there are; no such hostfile, or one without slots.
        """
        flags = {"--gpus": gpus, "--ranks": ranks, "--hostfile": hostfile}
        given = [name for name, value in flags.items() if value is not None]
        if len(given) > 1:
            raise InputError(
                f"{' and '.join(given)}: give one: GPUs of this machine, ranks on its CPU, or a list of machines"
            )
        if hostfile is not None:
            return cls("hosts", _slots(hostfile), hostfile)
        present = visible_gpus() if ranks is None else []
        if gpus is not None and gpus > len(present):
            raise InputError(f"--gpus {gpus}: there are {len(present)} that CUDA can use; --ranks N trains on the CPU")
        if present:
            return cls("gpu", {"localhost": present[:gpus]})
        return cls("cpu", {"localhost": _numbered(ranks or machine.numa_nodes())})


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would use, by number or as CUDA_VISIBLE_DEVICES names them; none if torch has no CUDA."""
    if _torch_version().endswith("+cpu"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return _numbered(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))  # MIG instances are indented


def _slots(hostfile: Path) -> dict[str, list[str]]:
    """The slots of each machine, by number.

    Raises:
        InputError: there is no such file, or DeepSpeed would not read it, or only in part.
    """
    if not hostfile.is_file():
        raise InputError(f"{hostfile}: no such file; a hostfile has a line `HOST slots=N` for each machine")
    slots: dict[str, list[str]] = {}
    for number, line in enumerate(hostfile.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.match(r"(\S+)\s+slots=([1-9]\d*)", line.strip())
        if found is None:
            raise InputError(f"{hostfile}: line {number}: found {line.strip():.60}; expected `HOST slots=N`")
        if found[1] in slots:
            raise InputError(
                f"{hostfile}: line {number}: {found[1]} is named before; give it all its slots in one line"
            )
        slots[found[1]] = _numbered(int(found[2]))
    if not slots:
        raise InputError(f"{hostfile}: names no machine; a hostfile has a line `HOST slots=N` for each")
    return slots


def _numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
