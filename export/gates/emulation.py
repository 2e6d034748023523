"""What a bundle answers on a CPU of another class, by an emulator: its golden texts are asked again there.

Debian's qemu-user runs one program as on another CPU; functionally exact, and slow: a text of 128 tokens takes a second
or more. It emulates AVX2, but neither AVX-512 nor, for an interpreter of this machine, another architecture.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bertline.artifacts.errors import GateError

EMULATOR = "qemu-x86_64"
CPUS = {"avx2": "Haswell"}
"""What is emulated for a class."""
SCRIPT = (
    "import sys; from pathlib import Path; from bertline.serve.engine import Engine; Engine.load(Path(sys.argv[1]), 1)"
)


def prove(folder: Path, target: str, here: str) -> str | None:
    """Load a sealed bundle as on a CPU of the target's class; returns what is to be told, None if that is this one's.

    Raises:
        GateError: it answers otherwise there.
    """
    if target == here:
        return None
    program = shutil.which(EMULATOR)
    emulated = target in CPUS and here != "arm64"  # whose interpreter is no program for x86-64
    if not emulated or program is None:
        why = f"{EMULATOR} is not installed" if emulated else "it cannot be emulated"
        return f"what a CPU of class {target} answers was not tried: {why}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    line = [program, "-cpu", CPUS[target], sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise GateError(
            f"as on a CPU of class {target} ({EMULATOR} -cpu {CPUS[target]}) the bundle does not hold: {last}"
        )
    return f"the golden texts were answered alike as on a CPU of class {target} ({EMULATOR} -cpu {CPUS[target]})"
