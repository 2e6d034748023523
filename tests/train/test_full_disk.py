"""On a full disk, here a small tmpfs, a run says so and ends, keeps what it has, and resumes once there is room."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertline.artifacts.checkpoint import verify
from bertline.artifacts.run import RunFolder
from bertline.train import checkpoints
from tests.train import forked
from tests.train.conftest import logged

SETS = ["training.save_steps=2", "training.dropout=0.1"]
DISK, PAGE = 32 << 20, 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def taken(folder: Path) -> int:
    """Bytes that the files of a folder occupy on a disk."""
    each = {found.st_ino: found.st_size for path in folder.rglob("*") if (found := path.stat())}  # best/ is hard-linked
    return sum(-(-size // PAGE) * PAGE for size in each.values())


def live(recipe: Path, run: RunFolder, log: Path) -> None:
    """Let two ranks start or resume a run, and finish it."""
    with forked.life(recipe, SETS, run, log, [None] * 2) as processes:
        forked.check_ended(processes, log)


def by_command(recipe: Path, run: RunFolder) -> "subprocess.CompletedProcess[str]":
    """The same by the command that a user would run."""
    command = str(Path(sys.executable).with_name("bertline"))
    sets = [word for each in SETS for word in ("--set", each)]
    line = [command, "train", str(recipe), *sets, "--ranks", "2", "--run", str(run.path)]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=600)


def test_a_full_disk(recipe: Path, tmp_path: Path, disk: Path) -> None:
    """The disk has room for two checkpoints and half of the third."""
    whole, run = RunFolder(tmp_path / "whole/run"), RunFolder(disk / "run")
    live(recipe, whole, tmp_path / "first")
    room = taken(whole.path.parent) + taken(whole.checkpoints / "step-12/deepspeed") // 2
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK - room))
    ended = by_command(recipe, run)
    said = ended.stderr
    assert ended.returncode == 2, said
    line, end = [line for line in said.splitlines() if str(run.path) in line or line.startswith("rank ")]
    assert line.startswith(f"{run.checkpoints}/.step-6: the checkpoint could not be written")
    assert line.endswith(" 0 MB are free there; make room and continue with --resume")
    assert end == f"{run.path}: training ended with exit code 2; the reason is above"
    assert "Traceback" not in said
    kept = checkpoints.found(run.checkpoints)
    assert [checkpoint.name for checkpoint in kept] == ["step-2", "step-4"]
    assert [verify(checkpoint).step for checkpoint in kept] == [2, 4]
    ballast.unlink()
    live(recipe, run, tmp_path / "second")
    assert logged(run) == logged(whole)
    assert [path.name for path in checkpoints.found(run.checkpoints)] == ["step-10", "step-12"]
