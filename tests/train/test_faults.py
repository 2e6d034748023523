"""Runs of two ranks that are killed again and again, and resumed each time, end like an uninterrupted run.

Bit by bit: best/, the weights and optimizer of the last checkpoint, and every line of metrics.jsonl but its speed.
"""

import collections
import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from signal import SIGKILL
from typing import Any, NamedTuple

import pytest
import torch

from bertline.artifacts import run as runs
from bertline.artifacts.checkpoint import verify
from bertline.artifacts.run import RunFolder
from bertline.train import checkpoints
from tests.train import forked, plain
from tests.train.conftest import logged
from tests.train.forked import PATIENCE, check_ended, told
from tests.train.killed import ALL, PLACES, STEP, Stop

LAST, SAVE, EVALUATE = 12, 2, 6
"""Steps of the recipe, and the numbers of steps after which it saves and evaluates."""
SETS = ["training.save_steps=2", "training.dropout=0.1", "training.best=loss", "training.micro_batch_size=4"]
VICTIMS = ((0,), (1,), ALL)
ANYWHERE = "anywhere"
"""Not a point where a rank waits: the kill comes after a random time."""
SHARE = {**dict.fromkeys(PLACES, 1), ANYWHERE: 4}
"""The relative share of kills at each point."""
SHORT: list[tuple[str, int, tuple[int, ...]]] = [
    ("begin", 0, ALL), ("forward", 1, (1,)), ("optimizer", 2, (1,)), ("backward", 3, (0,)), ("index", 4, ALL),
    ("weights", 4, (0,)), ("old", 4, (0,)), ("model", 6, ALL), ("rename", 6, (0,)), ("best", 6, (0,)),
    ("removal", 6, ALL), ("update", 12, (1,)), ("swap", 12, (0,)), ("summary", 12, (0,)),
]  # fmt: skip
"""Point, step and victims."""
LONG = 200
"""The total number of kills at points; kills anywhere come on top."""
AFTERWARDS = (0.0, 0.1, 0.5)
"""Seconds for which a rank that was not the victim may continue."""

Kill = tuple[str, tuple[int, ...]]


class Setting(NamedTuple):
    """Settings that differ between chains of kills."""

    zero_stage: int
    save_total_limit: int

    def sets(self) -> list[str]:
        return [*SETS, *(f"training.{key}={value}" for key, value in self._asdict().items())]

    def kills(self) -> list[Kill]:
        """All kills that are possible with these settings."""
        points = [point for point in SHARE if point != "optimizer" or self.zero_stage > 0]
        return [(point, victims) for point in points for victims in VICTIMS]

    def steps(self, point: str, done: int, there: int) -> list[int]:
        """The steps after `done` in which a point can be reached, when `there` checkpoints exist."""
        if point == "begin":
            return [0] if done == 0 else []
        coming = range(done + 1, min(done + 2 * SAVE, LAST) + 1)
        if point in (*STEP, ANYWHERE):
            return list(coming)
        if point in ("model", "swap", "best"):
            return [step for step in coming if step % EVALUATE == 0]
        if point == "summary":
            return [LAST] if done + 2 * SAVE >= LAST else []
        saves = [step for step in coming if step % SAVE == 0]
        return saves[max(self.save_total_limit - there, 0) :] if point in ("old", "removal") else saves


SETTINGS = [Setting(1, 1), Setting(0, 2), Setting(1, 2), Setting(2, 1), Setting(1, 1), Setting(3, 2)]


@dataclass
class Machine:
    """Starts runs, kills them and counts the kills."""

    recipe: Path
    folder: Path
    chance: random.Random
    kills: collections.Counter[Kill] = field(default_factory=collections.Counter)
    """Kills that landed."""
    names: Iterator[int] = field(default_factory=itertools.count)
    whole: dict[int, RunFolder] = field(default_factory=dict)
    """The uninterrupted run of each ZeRO stage."""
    seconds: float = 0.0
    """How long the last uninterrupted run took."""

    def at_points(self) -> int:
        """How many kills landed at a point."""
        return sum(count for (point, _), count in self.kills.items() if point != ANYWHERE)

    def uninterrupted(self, stage: int) -> RunFolder:
        if stage not in self.whole:
            run = self.whole[stage] = RunFolder(self.folder / f"whole-{stage}")
            started = time.monotonic()
            self.finish(run, Setting(stage, 2))
            self.seconds = time.monotonic() - started
        return self.whole[stage]

    @contextlib.contextmanager
    def life(
        self, run: RunFolder, setting: Setting, point: str = "", step: int = 0, stopped: tuple[int, ...] = ()
    ) -> Iterator[tuple[list[ForkServerProcess], Path]]:
        """Start two ranks, some of which wait at a point; yields them and the folder of their output."""
        log = self.folder / f"life-{next(self.names)}"
        stops = [Stop(point, step, log) if rank in stopped else None for rank in ALL]
        with forked.life(self.recipe, setting.sets(), run, log, stops) as ranks:
            yield ranks, log

    def kill(self, run: RunFolder, setting: Setting, point: str, victims: tuple[int, ...], step: int) -> None:
        """Let a run reach a point and kill some of its ranks there; the others end a moment later."""
        stopped = tuple(set(PLACES[point]) & set(victims)) or PLACES[point]
        with self.life(run, setting, point, step, stopped) as (ranks, log):
            marks = [log / f"rank-{rank}" for rank in stopped]
            wait_for(marks, ranks, log)
            assert [mark.read_text() for mark in marks] == [f"{point} {step}"] * len(marks), "stopped elsewhere"
            assert shoot(ranks, victims) == [-SIGKILL] * len(victims)
            (log / "go").touch()
            self.kills[point, victims] += 1
            time.sleep(self.chance.choice(AFTERWARDS))

    def kill_anywhere(self, run: RunFolder, setting: Setting, victims: tuple[int, ...]) -> None:
        """Kill ranks at a random time after their start; counts only if they are not done by then."""
        with self.life(run, setting) as (ranks, log):
            ranks[0].join(self.chance.uniform(0, self.seconds))
            if shoot(ranks, victims) == [-SIGKILL] * len(victims):
                self.kills[ANYWHERE, victims] += 1
                time.sleep(self.chance.choice(AFTERWARDS))
            else:
                assert all(process.exitcode in (None, 0, -SIGKILL) for process in ranks), told(log)

    def chain(self, setting: Setting) -> None:
        """Kill a run until it has reached its last step, let it finish, and compare it with the uninterrupted one."""
        whole, run = self.uninterrupted(setting.zero_stage), RunFolder(self.folder / f"run-{next(self.names)}")
        while True:
            found = checkpoints.found(run.checkpoints)
            done = int(found[-1].name.removeprefix("step-")) if found else 0
            kills = [kill for kill in setting.kills() if setting.steps(kill[0], done, len(found))]
            if not kills or run.summary.exists() or (done == LAST and self.chance.random() < 0.5):
                break
            point, victims = min(kills, key=lambda kill: (self.kills[kill] // SHARE[kill[0]], self.chance.random()))
            if point == ANYWHERE:
                self.kill_anywhere(run, setting, victims)
            else:
                self.kill(run, setting, point, victims, self.chance.choice(setting.steps(point, done, len(found))))
        if not run.summary.exists():
            self.finish(run, setting)
        check_same(run, whole, setting)

    def finish(self, run: RunFolder, setting: Setting) -> None:
        with self.life(run, setting) as (ranks, log):
            check_ended(ranks, log)


@pytest.fixture(scope="module")
def machine(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(recipe, tmp_path_factory.mktemp("faults"), random.Random(1))


def shoot(ranks: Sequence[ForkServerProcess], victims: tuple[int, ...]) -> list[int | None]:
    """Kill some ranks; returns their exit codes, which say what they died of."""
    for victim in victims:
        ranks[victim].kill()
    for victim in victims:
        ranks[victim].join()
    return [ranks[victim].exitcode for victim in victims]


def wait_for(marks: list[Path], ranks: list[ForkServerProcess], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all(mark.exists() for mark in marks):
        assert all(process.is_alive() for process in ranks), told(log)
        assert time.monotonic() < deadline, told(log)
        time.sleep(0.01)


def check_same(run: RunFolder, whole: RunFolder, setting: Setting) -> None:
    """Check that a run equals the uninterrupted one, and that no kill left anything behind."""
    assert logged(run) == logged(whole)
    assert identical(plain.weights(run.best), plain.weights(whole.best))
    for name in ("validation", "test"):
        assert run.split(name).read_bytes() == whole.split(name).read_bytes()
    last, found = f"step-{LAST}", checkpoints.found(run.checkpoints)
    assert found[-1].name == last
    for checkpoint in found:
        verify(checkpoint)
    parts = sorted((whole.checkpoints / last).rglob("*.pt"))
    assert len(parts) == {0: 1, 1: 3, 2: 3, 3: 4}[setting.zero_stage]
    for path in parts:
        part = path.relative_to(whole.path)
        assert identical(*(torch.load(each.path / part, weights_only=False) for each in (run, whole))), part
    summaries = [runs.verify(each.path) for each in (run, whole)]
    assert summaries[0].test == summaries[1].test
    assert summaries[0].files == summaries[1].files
    assert set(run.checkpoints.iterdir()) == set(found), "something half-made is left"
    assert not [*run.path.glob(".*best*"), *run.path.glob(".metrics*")], "something half-made is left"
    assert len(found) <= setting.save_total_limit + 1  # a run killed before its last removal never makes up for it


def identical(one: Any, other: Any) -> bool:
    """Whether two nested structures hold bitwise the same tensors and numbers at the same places."""
    here, there = dict(leaves(one)), dict(leaves(other))
    return here.keys() == there.keys() and all(same(leaf, there[place]) for place, leaf in here.items())


def leaves(nest: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors, numbers and strings of nested dictionaries and lists, each with its place."""
    if isinstance(nest, (dict, list, tuple)):
        for key, value in nest.items() if isinstance(nest, dict) else enumerate(nest):
            yield from leaves(value, f"{place}/{key}")
    elif isinstance(nest, (torch.Tensor, int, float, str)):
        yield place, nest


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def test_killed_once_at_each_point(machine: Machine) -> None:
    """One run. Where only rank 0 writes, it is a victim: otherwise it would clean up itself."""
    setting, run = Setting(1, 1), RunFolder(machine.folder / "short")
    assert {point for point, _, _ in SHORT} == set(PLACES)
    for point, step, victims in SHORT:
        machine.kill(run, setting, point, victims, step)
    machine.finish(run, setting)
    check_same(run, machine.uninterrupted(setting.zero_stage), setting)


def test_a_kill_that_would_land_elsewhere_fails(machine: Machine) -> None:
    """The run evaluates in step 6, not in step 5."""
    with pytest.raises(AssertionError, match="stopped elsewhere"):
        machine.kill(RunFolder(machine.folder / "elsewhere"), Setting(1, 1), "best", (0,), 5)


def test_only_checkpoints_are_left(tmp_path: Path) -> None:
    for name in ("step-2", ".step-2", ".step-4", ".universal-step-2", "step-4"):
        (tmp_path / name).mkdir()
    checkpoints.set_aside(tmp_path, after=2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-2", "damaged-step-4"}


@pytest.mark.faults
def test_two_hundred_kills(machine: Machine) -> None:
    """Every set of victims, several times at every point and at random moments."""
    machine.kills.clear()
    for chains, setting in enumerate(itertools.cycle(SETTINGS), start=1):  # noqa: B007
        machine.chain(setting)
        if machine.at_points() >= LONG:
            break
    print(f"{chains} runs, {machine.kills.total()} kills, {machine.at_points()} of them at points")
    for (point, victims), count in sorted(machine.kills.items()):
        print(f"{point:10} ranks {victims}: {count}")
    assert chains >= len(SETTINGS)
    assert set(machine.kills) == {(point, victims) for point in SHARE for victims in VICTIMS}
    assert min(machine.kills.values()) >= 3
