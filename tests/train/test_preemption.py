"""A run that is asked to stop saves a checkpoint, exits with a code of its own, and resumes as if never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from bertline.artifacts.errors import PreemptedError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.launch import deepspeed_launcher
from bertline.launch import train as launched
from bertline.launch.devices import Devices
from bertline.train import preemption, watchdog
from tests.train import plain
from tests.train.conftest import logged, losses, train_here
from tests.waiting import wait_for

SETS = ["--set", "training.epochs=20", "--set", "training.save_steps=1000", "--set", "training.eval_steps=1000"]


def start(recipe: Path, run: RunFolder, *more: str) -> "subprocess.Popen[str]":
    command = str(Path(sys.executable).with_name("bertline"))
    line = [command, "train", str(recipe), *SETS, "--ranks", "2", "--run", str(run.path), *more]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})


def steps(run: RunFolder) -> int:
    return len(losses(run)) if run.metrics.exists() else 0


@pytest.mark.parametrize(
    ("number", "everyone"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), pytest.param(signal.SIGUSR1, False, marks=pytest.mark.faults)],
)
def test_a_preempted_run_goes_on_where_it_was(
    recipe: Path, tmp_path: Path, number: signal.Signals, everyone: bool
) -> None:
    """The signal goes to the command alone, or, as by systemd, to all processes of the job."""
    run = RunFolder(tmp_path / "run")
    training = start(recipe, run, "--set", "training.micro_batch_size=1")  # makes its steps slow
    wait_for(lambda: training.poll() is not None or steps(run) >= 5, 600)
    for process in psutil.Process(training.pid).children(recursive=True) if everyone else []:
        process.send_signal(number)
    training.send_signal(number)
    _, words = training.communicate(timeout=600)
    assert training.returncode == PreemptedError.exit_code, words
    assert "--resume" in words
    (checkpoint,) = run.checkpoints.glob("step-*")
    taken = int(checkpoint.name.removeprefix("step-"))
    assert 5 <= taken < 120
    before = losses(run)
    assert len(before) == taken
    resumed = start(recipe, run, "--resume")
    _, words = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, words
    assert f"resumed at step {taken}" in words
    assert losses(run)[:taken] == before
    assert len(losses(run)) == read_summary(run.path).steps == 120
    assert json.loads(run.metrics.read_text().splitlines()[-1])["step"] == 120


EARLY = [
    "training.eval_steps=1",
    "training.early_stopping_patience=1",
    "training.best=accuracy",
    "training.learning_rate=1e-9",
]


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize(
    ("place", "times", "more"),
    [
        ("validation, round 3", [1], []),  # the evaluation after step 6
        ("validation, round 3", [1, 2], []),  # and again in the resumed run
        ("validation, round 3", [2], []),  # the last evaluation
        ("step 6, update", [1], []),
        ("step 12, update", [1], []),
        ("test, round 2", [1], []),
        ("test, round 2", [1], EARLY),
    ],
)
def test_an_evaluation_that_is_stopped_is_made_by_the_run_that_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, times: list[int], more: list[str]
) -> None:
    sets = ["training.micro_batch_size=4", "training.save_steps=100", "training.best=loss", *more]
    whole = train_here(recipe, tmp_path / "whole", sets)
    heard: list[str] = []
    beat = watchdog.beat

    def beat_and_ask(where: str) -> None:
        beat(where)
        heard.append(where)
        if where == place and heard.count(place) in times:
            preemption.asked.set()

    monkeypatch.setattr(watchdog, "beat", beat_and_ask)
    for number in range(len(times)):
        monkeypatch.setattr(preemption, "asked", preemption.Flag())
        with pytest.raises(PreemptedError, match=f"{tmp_path}/stopped: stopped as asked"):
            train_here(recipe, tmp_path / "stopped", sets, resume=number > 0)
        assert heard[-1] != "test, scores"
        assert list((tmp_path / "stopped/checkpoints").glob("step-*")), "nothing to resume from"
    monkeypatch.setattr(preemption, "asked", preemption.Flag())
    stopped = train_here(recipe, tmp_path / "stopped", sets, resume=True)
    assert logged(stopped) == logged(whole)
    assert read_summary(stopped.path).test == read_summary(whole.path).test
    for name, tensor in plain.weights(whole.best).items():
        assert torch.equal(tensor, plain.weights(stopped.best)[name]), name


def test_a_signal_may_come_while_another_is_noted() -> None:
    """A second signal arrives at each line of the handler."""
    script = """
import signal, sys
from bertline.train import preemption
preemption.watch()
lines = 0
def again(frame, event, argument):
    global lines
    lines += 1
    signal.raise_signal(signal.SIGUSR1)
    return again
sys.settrace(again)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
assert lines > 3 and preemption.asked.is_set()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.faults
def test_ranks_whose_launcher_is_gone_leave_a_checkpoint(recipe: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    training = start(recipe, run, "--set", "training.micro_batch_size=1")
    wait_for(lambda: training.poll() is not None or steps(run) >= 5, 600)
    (launcher,) = psutil.Process(training.pid).children()
    ranks = launcher.children()
    assert len(ranks) == 2
    training.kill()
    launcher.kill()
    training.communicate(timeout=60)  # once the ranks, too, have closed stderr
    wait_for(lambda: not any(rank.is_running() for rank in ranks))
    (checkpoint,) = run.checkpoints.glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) == steps(run) < 120
    assert not run.summary.exists()


def test_how_to_go_on_is_said_as_far_as_the_run_has_come(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped before its recipe was written must be started again, without --resume."""
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(deepspeed_launcher, "run", lambda *_: PreemptedError.exit_code)
    with pytest.raises(PreemptedError, match=f"{run.path} and the same"):
        launched.start(recipe, Devices.choose(ranks=1), run=run.path)
    run.path.mkdir()
    run.recipe.touch()
    with pytest.raises(PreemptedError, match=f"{run.path} --resume and the same"):
        launched.start(recipe, Devices.choose(ranks=1), run=run.path, resume=True)
