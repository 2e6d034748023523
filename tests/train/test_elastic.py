"""A run resumes on another number of ranks with the same batches, losses and group settings."""

import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.train import elastic, preemption
from tests.train import elastic_ranks, forked, plain
from tests.train.conftest import losses, train_here
from tests.train.elastic_ranks import CHANGES, check_loaded, sets

pytestmark = pytest.mark.usefixtures("rank")


@pytest.fixture(scope="module", params=[*(pytest.param(stage, marks=pytest.mark.faults) for stage in (0, 1, 3)), 2])
def folder(recipe: Path, rank: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Runs of 12 steps that change their ranks after step 4, some again after step 8; what is loaded is checked."""
    folder, stage = tmp_path_factory.mktemp("elastic"), request.param
    forked.two(folder / "begin", elastic_ranks.main, "begin", recipe, folder, stage)
    look = partial(check_loaded, step=4)
    train_here(recipe, folder / "two-one", sets(stage), resume=True, look=look)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, folder / "two-one-two", sets(stage), resume=True, stop=10, look=look)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, folder / "one-two", sets(stage), stop=6)
    forked.two(folder / "resume", elastic_ranks.main, "resume", recipe, folder, stage)
    return folder


@pytest.fixture(scope="module")
def whole(recipe: Path, rank: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run on one rank, uninterrupted."""
    return train_here(recipe, tmp_path_factory.mktemp("whole") / "run", sets(0))


def test_each_parameter_counts_its_steps_where_it_is() -> None:
    """DeepSpeed loads one shared counter on the CPU, where the fused GPU kernel does not accept it."""
    count = torch.tensor(4.0)
    here, there = torch.zeros(2), torch.zeros(2, device="meta")
    optimizer = torch.optim.AdamW([here, there])
    for parameter in (here, there):
        optimizer.state[parameter]["step"] = count
    elastic.repair(optimizer, elastic.settings(optimizer), [0.5])
    found = [optimizer.state[parameter]["step"] for parameter in (here, there)]
    assert [step.device.type for step in found] == ["cpu", "meta"]
    count += 1
    assert found[0] == 4.0
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_run_that_is_asked_to_stop_while_a_checkpoint_is_converted_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal reaches the converter as well, and ends it."""
    ended = subprocess.CompletedProcess([], -signal.SIGUSR1, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(InputError, match="could not be converted"):
        elastic.convert(tmp_path / "step-4")
    monkeypatch.setattr(preemption, "asked", preemption.Flag())
    preemption.asked.set()
    with pytest.raises(PreemptedError):
        elastic.convert(tmp_path / "step-4")


def test_a_group_smaller_than_the_ranks(tmp_path: Path) -> None:
    forked.two(tmp_path / "logs", elastic_ranks.load_padding, tmp_path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_other_ranks(folder: Path, whole: RunFolder, change: str) -> None:
    run = RunFolder(folder / change)
    assert losses(run) == pytest.approx(losses(whole), abs=1e-6)
    assert read_summary(run.path).ranks == (1 if change == "two-one" else 2)
    kept = plain.weights(run.best)
    for name, tensor in plain.weights(whole.best).items():
        torch.testing.assert_close(kept[name], tensor, atol=1e-4, rtol=0, msg=name)
    assert not list(run.checkpoints.glob(".*"))
