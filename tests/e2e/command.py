"""The installed command, run as a user's shell would, and the same in this process."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bertline.launch import bench
from bertline.launch.command import main
from tests.export.conftest import measure_briefly


def bertline(*arguments: object, folder: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command that is installed beside this Python, as a user's shell would."""
    command = [str(Path(sys.executable).with_name("bertline")), *map(str, arguments)]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DS_ACCELERATOR", "OMP_NUM_THREADS")
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == expect, done.stderr
    return done


def here(*arguments: object, folder: Path) -> str:
    """What a command prints in this process, which has imported all that it needs; it measures briefly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        measure_briefly(patch)
        patch.setattr(bench, "ROUNDS", 1)
        done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


@dataclass(frozen=True)
class Line:
    """What each command of the line printed with --json, and where it ran."""

    folder: Path
    train: dict[str, Any]
    export: dict[str, Any]
    bench: dict[str, Any]
