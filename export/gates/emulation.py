"""Checks a bundle's golden texts on a CPU of another class, by emulation.

Debian's qemu-user runs a program as on another CPU. It is functionally exact, but slow: a text of 128 tokens takes a
second or more. It emulates AVX2, but neither AVX-512 nor, for this machine's Python, another architecture.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bertline.artifacts.errors import GateError

EMULATOR = "qemu-x86_64"
CPUS = {"avx2": "Haswell"}
"""The CPU model to emulate for each class."""
SCRIPT = (
    "import sys; from pathlib import Path; from bertline.serve.engine import Engine; Engine.load(Path(sys.argv[1]), 1)"
)


def prove(folder: Path, target: str, here: str) -> str | None:
    """Load a sealed bundle on an emulated CPU of class `target`; `here` is this machine's class.

    Returns:
        A notice about the result; None if the target is this machine's class.

    Raises:
        GateError: the bundle answers differently there.
    """
    if target == here:
        return None
    program = shutil.which(EMULATOR)
    emulated = target in CPUS and here != "arm64"  # the interpreter must be an x86-64 program
    if not emulated or program is None:
        why = f"{EMULATOR} is not installed" if emulated else "it cannot be emulated"
        return f"answers on a CPU of class {target} were not checked: {why}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    line = [program, "-cpu", CPUS[target], sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise GateError(
            f"on an emulated CPU of class {target} ({EMULATOR} -cpu {CPUS[target]}) the bundle fails: {last}"
        )
    return f"golden texts were answered alike on an emulated CPU of class {target} ({EMULATOR} -cpu {CPUS[target]})"
