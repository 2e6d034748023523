"""The program of a rank: exit codes, and what it prints where."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bertline.train import __main__ as program
from bertline.train import preemption
from bertline.train.__main__ import parse


def ask(*arguments: str, folder: Path, accelerator: str = "cpu") -> "subprocess.CompletedProcess[str]":
    """Run `python -m bertline.train` by hand, as a single rank that sees no GPU."""
    environment = {
        "PATH": os.defpath, "HOME": str(folder), "DS_ACCELERATOR": accelerator, "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    line = [sys.executable, "-m", "bertline.train", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_faults_of_a_recipe(recipe: Path, tmp_path: Path) -> None:
    answer = ask(str(recipe), "--set", "training.epochs=none", "--set", "data.text=body", folder=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    first, second = answer.stderr.splitlines()
    assert "training.epochs" in first
    assert "data.text" in second


def test_a_run_by_hand(recipe: Path, tmp_path: Path) -> None:
    answer = ask(str(recipe), "--set", "training.logging_steps=6", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
    assert (tmp_path / "runs/tiny/run.json").is_file()
    said = answer.stderr.splitlines()
    cut = "34% of the texts are longer than 32 tokens and are cut"
    assert said[1] == f"texts: 90 train, 20 validation, 30 test; labels: negative, positive; {cut}"
    assert [line.split()[1] for line in said if line.startswith("step") and "tokens/s" in line] == ["6/12", "12/12"]
    again = ask(str(recipe), folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("runs/tiny: holds a finished run")


def test_a_gpu_that_torch_cannot_use_is_told_in_a_line(recipe: Path, tmp_path: Path) -> None:
    answer = ask(str(recipe), folder=tmp_path, accelerator="cuda")
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert re.match(r"torch \S+ cannot use this machine's GPUs: .*(CUDA|NVIDIA).*; `bertline doctor` shows", line)
    assert not (tmp_path / "runs").exists()


def test_the_flags() -> None:
    arguments = parse(["--local_rank=1", "r.yaml", "--set", "a=1", "--set", "b=2", "--run", "x", "--resume"])
    assert vars(arguments) == {
        "recipe": Path("r.yaml"), "set": ["a=1", "b=2"], "run": Path("x"), "resume": True, "local_rank": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("arguments", "missed"), [([], False), (["--local_rank=0"], True)])
def test_the_launcher_is_missed_but_no_shell(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], missed: bool
) -> None:
    """A run that was started by hand, with nohup, say, goes on when its shell ends."""
    monkeypatch.setattr(preemption, "watch", lambda: None)
    monkeypatch.setattr(preemption, "asked", preemption.Flag())
    monkeypatch.setattr(sys, "argv", ["bertline.train", *arguments, str(recipe)])
    monkeypatch.setenv("LOCAL_RANK", "0")
    asked: list[bool] = []

    def train(*_: object) -> int:
        asked.append(preemption.asked.is_set())
        monkeypatch.setattr(os, "getppid", lambda: 1)
        asked.append(preemption.asked.is_set())
        return 0

    monkeypatch.setattr(program, "train", train)
    assert program.main() == 0
    assert asked == [False, missed]


@pytest.mark.parametrize(("rank", "local", "lines"), [(0, 0, 1), (1, 1, 0), (8, 0, 1), (9, 1, 0)])
def test_a_fault_that_all_have_is_told_once_a_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int, local: int, lines: int
) -> None:
    """Slurm and Kubernetes do not end the other ranks when one has reported a fault."""
    monkeypatch.setattr(program, "PATIENCE", 0.0)
    monkeypatch.setattr(preemption, "unwatch", lambda: None)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    program.tell("a fault")
    assert capsys.readouterr().err == "a fault\n" * lines
