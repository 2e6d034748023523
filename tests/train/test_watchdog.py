"""A rank that dies, stops, hangs or fails ends the run: quickly, all of it, with a line that says which and where."""

import errno
import os
import sys
import time
from pathlib import Path
from threading import Event

import psutil
import pytest
import torch

from bertline.launch import deepspeed_launcher
from bertline.train import watchdog
from bertline.train.watchdog import Fault, Watch
from tests.train.failing_ranks import STEP

ROOT = Path(__file__).parents[2]
WAYS = {
    "hang": f", step {STEP}, forward of micro-batch 1: no step forward for",
    "stop": " died or was stopped",
    "die": " died",
    "run_out_of_memory": f", step {STEP}, forward of micro-batch 1: out of memory",
    "fail": f", step {STEP}, forward of micro-batch 1: ValueError: a defect",
}


def launch(recipe: Path, folder: Path, way: str, victim: int, tick: float, *sets: str) -> tuple[int, float]:
    """The exit code of the launcher, and the seconds from the failure to it."""
    line = deepspeed_launcher.command(recipe, [*sets, "training.eval_steps=100"], folder / "run", ranks=2)
    line[line.index("bertline.train")] = "tests.train.failing_ranks"
    line += [str(tick), str(victim), way]
    variables = {**deepspeed_launcher.environment(ranks=2), "PYTHONPATH": str(ROOT)}
    code = deepspeed_launcher.run(line, variables)
    return code, time.time() - (folder / "run/metrics.jsonl").stat().st_mtime


def left_over(folder: Path) -> list[str]:
    """Processes that still work for a run."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [" ".join(line) for line in lines if str(folder / "run") in line]


def check(folder: Path, said: str, way: str, victim: int) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith(f"rank {victim}")]
    assert line.startswith(f"rank {victim}{WAYS[way]}")
    assert f"step {STEP}, " in line
    assert not left_over(folder)


@pytest.mark.parametrize(("way", "victim"), [("hang", 1), ("die", 1)])
def test_a_rank_that_fails_ends_the_run(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], way: str, victim: int
) -> None:
    code, _ = launch(recipe, tmp_path, way, victim, 0.5, "training.timeout=8")
    assert code != 0
    check(tmp_path, capfd.readouterr().err, way, victim)


def test_a_path_at_which_nothing_can_be_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert watchdog.end(NotADirectoryError(errno.ENOTDIR, "Not a directory", "notes.txt")) == 2
    assert capfd.readouterr().err == "notes.txt: Not a directory\n"


def test_rank_0_may_be_gone_before_a_rank_that_has_said_why_it_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def exchange(watch: Watch) -> None:
        raise RuntimeError("the store is gone")

    monkeypatch.setattr(watchdog, "TICK", 0.01)
    monkeypatch.setattr(watchdog, "SILENCE", 1000)
    monkeypatch.setattr(Watch, "_exchange", exchange)
    monkeypatch.setattr(os, "_exit", sys.exit)
    watch = object.__new__(Watch)
    watch._rank, watch._doing, watch._tick, watch._heard, watch._left = 1, "step 7, checkpoint", 0, {}, Event()
    watch._out = Event()
    watch._ending = Fault(0, 75, "stopped as asked")
    with pytest.raises(SystemExit, match="75"):
        watch._watch()
    assert capfd.readouterr().err == ""
    watch._ending = None
    with pytest.raises(SystemExit, match="1"):
        watch._watch()
    assert capfd.readouterr().err.startswith("rank 0 died: it is not reached any more")


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_within_thirty_seconds_as_it_is_set(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], way: str, victim: int
) -> None:
    code, seconds = launch(recipe, tmp_path, way, victim, 1.0)
    assert code != 0
    print(f"{way}, rank {victim}: {seconds:.0f} s")
    check(tmp_path, capfd.readouterr().err, way, victim)
    assert seconds < 30


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("NCCL Error 1: Failed to CUDA calloc async: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("expected scalar type Float"), False),
    ],
)
def test_memory_that_runs_out_is_known_whoever_says_so(error: BaseException, is_it: bool) -> None:
    assert watchdog.is_out_of_memory(error) is is_it
