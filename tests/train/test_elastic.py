"""A run goes on with another number of ranks: the same batches, the same losses, the settings of each group its own."""

from functools import partial
from pathlib import Path

import pytest
import torch

from bertline.artifacts.run import RunFolder, read_summary
from bertline.launch import deepspeed_launcher
from tests.train import plain
from tests.train.conftest import losses, train_here
from tests.train.elastic_ranks import CHANGES, STAGES, check_loaded, sets

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.usefixtures("rank"), pytest.mark.faults]


def on_two_ranks(what: str, recipe: Path, folder: Path) -> None:
    line = deepspeed_launcher.command(recipe, ranks=2)
    line[line.index("bertline.train") :] = ["tests.train.elastic_ranks", what, str(recipe), str(folder)]
    variables = {**deepspeed_launcher.environment(ranks=2), "PYTHONPATH": str(ROOT)}
    assert deepspeed_launcher.run(line, variables) == 0


@pytest.fixture(scope="module")
def folder(recipe: Path, rank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 12 steps that change their ranks after step 4, and some again after 8; what is loaded is looked at."""
    folder = tmp_path_factory.mktemp("elastic")
    on_two_ranks("begin", recipe, folder)
    look = partial(check_loaded, step=4)
    for stage in STAGES:
        train_here(recipe, folder / f"two-one-{stage}", sets(stage), resume=True, look=look)
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe, folder / f"two-one-two-{stage}", sets(stage), resume=True, stop=10, look=look)
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe, folder / f"one-two-{stage}", sets(stage), stop=6)
    on_two_ranks("resume", recipe, folder)
    return folder


@pytest.fixture(scope="module")
def whole(recipe: Path, rank: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same on one rank, uninterrupted."""
    return train_here(recipe, tmp_path_factory.mktemp("whole") / "run", sets(0))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_other_ranks(folder: Path, whole: RunFolder, change: str, stage: int) -> None:
    run = RunFolder(folder / f"{change}-{stage}")
    assert losses(run) == pytest.approx(losses(whole), abs=1e-6)
    assert read_summary(run.path).ranks == (1 if change == "two-one" else 2)
    kept = plain.weights(run.best)
    for name, tensor in plain.weights(whole.best).items():
        torch.testing.assert_close(kept[name], tensor, atol=1e-4, rtol=0, msg=name)
    assert not list(run.checkpoints.glob(".*"))
