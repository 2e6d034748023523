"""A rank that dies, stops, hangs or fails ends all ranks quickly, with a line that says which rank and where."""

import errno
import os
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from bertline.artifacts.errors import PreemptedError
from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices
from bertline.train import ranks, watchdog
from bertline.train.watchdog import Fault, Watch
from tests.train.conftest import train_here
from tests.train.failing_ranks import STEP

ROOT = Path(__file__).parents[2]
WATCH = Watch._watch
WAYS = {
    "hang": f", step {STEP}, forward of micro-batch 1: no progress for",
    "stop": " died or was stopped",
    "die": " died",
    "run_out_of_memory": f", step {STEP}, forward of micro-batch 1: out of memory",
    "fail": f", step {STEP}, forward of micro-batch 1: ValueError: a defect",
}


def launch(recipe: Path, folder: Path, way: str, victim: int, tick: float, *sets: str) -> tuple[int, float]:
    """The exit code of the launcher, and the seconds between the failure and its exit."""
    devices = Devices.choose(ranks=2)
    line = deepspeed_launcher.command(recipe, devices, [*sets, "training.eval_steps=100"], folder / "run")
    line[line.index("bertline.train")] = "tests.train.failing_ranks"
    line += [str(tick), str(victim), way]
    variables = {**deepspeed_launcher.environment(devices), "PYTHONPATH": str(ROOT)}
    code = deepspeed_launcher.run(line, variables)
    return code, time.time() - (folder / "run/metrics.jsonl").stat().st_mtime


def left_over(folder: Path) -> list[str]:
    """Processes that still belong to a run."""
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


class Store:
    """torch's store, in this process."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.held[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.held[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.held for key in keys)

    def compare_set(self, key: str, expected: str, wanted: str) -> bytes:
        return self.held.setdefault(key, wanted.encode())


class Ticks:
    """The watch of rank 0 of two, whose ticks are told by hand; the other rank is steps ahead, and waits."""

    def __init__(self, watch: Watch, store: Store) -> None:
        self.watch, self.store = watch, store

    def pass_by(self, count: int) -> list[Fault | None]:
        """What is found in each of so many ticks."""
        return [self._tick() for _ in range(count)]

    def _tick(self) -> Fault | None:
        self.watch._tick += 1
        self.store.set("status/1", f"{self.watch._tick}\t1000\t0\telsewhere\tstep 9")
        return self.watch._exchange()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """That of watches whose threads end at once."""
    made = Store()
    monkeypatch.setattr(ranks, "store", lambda *_: made)
    monkeypatch.setattr(Watch, "_watch", lambda watch: None)
    return made


@pytest.fixture
def ticks(store: Store) -> Ticks:
    return Ticks(Watch(0, 2), store)


def test_rank_0_may_be_gone_before_a_rank_that_has_said_why_it_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def exchange(watch: Watch) -> None:
        raise RuntimeError("the store is gone")

    watch = Watch(1, 2)
    assert watch.fail(PreemptedError("stopped as asked")) == PreemptedError.exit_code
    assert capfd.readouterr().err == "stopped as asked\n"
    monkeypatch.setattr(watchdog, "TICK", 0.01)
    monkeypatch.setattr(watchdog, "SILENCE", 1000)
    monkeypatch.setattr(Watch, "_exchange", exchange)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match=str(PreemptedError.exit_code)):
        WATCH(watch)
    assert capfd.readouterr().err == ""


def test_a_rank_may_stand_still_for_several_times_as_long_as_ever_before(ticks: Ticks) -> None:
    ticks.watch.allow(20)
    ticks.watch.beat("step 1")
    ticks.pass_by(10)
    ticks.watch.beat("step 2")
    *before, found = ticks.pass_by(watchdog.SLACK * 10 + 1)
    assert set(before) == {None}
    assert found == Fault(0, 1, "rank 0, step 2: no progress for 51 seconds (training.timeout)")


def test_a_pause_that_was_allowed_is_no_standstill_and_no_measure_of_one(ticks: Ticks) -> None:
    ticks.watch.allow(20)
    ticks.watch.beat("step 1")
    ticks.watch.allow(None)
    assert ticks.pass_by(100) == [None] * 100
    ticks.watch.allow(20)
    assert ticks.pass_by(20) == [None] * 20
    ticks.watch.beat("step 2")  # after 20 ticks, the longest that counts
    *before, found = ticks.pass_by(watchdog.SLACK * 20 + 1)
    assert set(before) == {None}
    assert found is not None
    assert "step 2: no progress for 101 seconds" in found.words


def test_the_first_step_may_take_longer_than_those_after_it(
    rank: None, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float | None] = []
    monkeypatch.setattr(watchdog, "allow", allowed.append)
    train_here(recipe, tmp_path / "run", ["training.epochs=1", "training.timeout=7"])
    assert [seconds for seconds in allowed if seconds is not None][:2] == [watchdog.FIRST, 7]


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
