"""Two ranks on the CPU, some started by DeepSpeed's launcher, against the plain loop and against each other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from bertline.artifacts import recipe as recipes
from bertline.artifacts.run import RunFolder, read_summary
from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices
from bertline.train import checkpoints
from bertline.train.data import splitting
from bertline.train.loop import Trainer
from tests.conftest import make_model
from tests.serve.conftest import seal
from tests.train import forked, plain, two_ranks
from tests.train.conftest import losses, train_here


@pytest.fixture(scope="module")
def launched(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of the recipe by the same command that `bertline train` executes."""
    folder = tmp_path_factory.mktemp("launched") / "run"
    devices = Devices.choose(ranks=2)
    line = deepspeed_launcher.command(recipe, devices, ["training.best=loss"], folder)
    assert deepspeed_launcher.run(line, deepspeed_launcher.environment(devices)) == 0
    return RunFolder(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to serve as teacher."""
    folder = tmp_path_factory.mktemp("bundle")
    return seal(make_model(folder / "model", ("negative", "positive")), folder / "bundle")


@pytest.fixture(scope="module")
def folder(recipe: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two_ranks.py."""
    folder = tmp_path_factory.mktemp("two_ranks")
    forked.two(folder / "logs", two_ranks.main, recipe, folder, bundle)
    return folder


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights that the plain loop computes for the recipe."""
    loaded = recipes.load(recipe)
    return plain.train(loaded, splitting.make(loaded, tmp_path_factory.mktemp("splits")))


def test_the_launched_run_is_the_plain_loop(
    launched: RunFolder, expected: tuple[list[float], dict[str, torch.Tensor]]
) -> None:
    assert losses(launched) == pytest.approx(expected[0], abs=1e-5)
    assert read_summary(launched.path).ranks == 2


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_micro_batches_on_two_ranks_are_the_plain_loop(
    folder: Path, expected: tuple[list[float], dict[str, torch.Tensor]], stage: int
) -> None:
    assert losses(RunFolder(folder / f"zero-{stage}")) == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_best_holds_what_the_model_held(
    folder: Path, expected: tuple[list[float], dict[str, torch.Tensor]], stage: int
) -> None:
    run = RunFolder(folder / f"zero-{stage}")
    summary = read_summary(run.path)
    assert summary.best.step == summary.steps == len(expected[0]), "the loss falls to the end in this recipe"
    kept = plain.weights(run.best)
    assert kept.keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        assert kept[name].dtype == torch.float32
        torch.testing.assert_close(kept[name], tensor, atol=1e-4, rtol=0, msg=name)


def test_best_is_not_rounded_to_what_weights_are_multiplied_in(folder: Path) -> None:
    run = RunFolder(folder / "in-bf16")
    checkpoint = run.checkpoints / f"step-{read_summary(run.path).best.step}"
    trained = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=checkpoints.TAG)
    kept = plain.weights(run.best)
    assert kept.keys() == trained.keys()
    for name, tensor in trained.items():
        assert torch.equal(kept[name], tensor), name


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_teacher_says_the_same_to_two_ranks_as_to_one(
    recipe: Path, folder: Path, bundle: Path, tmp_path: Path, kind: str
) -> None:
    said: list[np.ndarray] = []

    def look(trainer: Trainer) -> None:
        said.append(np.stack(list(trainer.batches._split.teacher or ())))

    teacher = folder / "zero-0" if kind == "run" else bundle
    train_here(recipe, tmp_path / "run", [f"teacher={teacher}"], look=look)
    assert said[0].std(axis=0).min() > 1e-5, "the teacher gives all texts the same outputs"
    np.testing.assert_allclose(np.load(folder / f"{kind}.npy"), said[0], rtol=0, atol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_run(folder: Path) -> None:
    whole, stopped = RunFolder(folder / "whole"), RunFolder(folder / "stopped")
    assert losses(stopped) == losses(whole)
    for name, tensor in plain.weights(whole.best).items():
        assert torch.equal(tensor, plain.weights(stopped.best)[name]), name
