"""A run that is finished is used as it is, where it is of the recipe asked for."""

from pathlib import Path

import pytest

from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError, DamagedError, InputError
from bertline.artifacts.run import RunFolder
from bertline.launch import train
from bertline.launch.devices import Devices
from tests.conftest import make_model
from tests.train.conftest import train_here, write_recipe


def test_a_finished_run_is_used_and_one_of_another_recipe_refused(rank: None, tmp_path: Path) -> None:
    recipe = write_recipe(make_model(tmp_path / "model"), tmp_path)
    run = train_here(recipe, tmp_path / "run", ["training.epochs=1"])
    devices, said = Devices.choose(ranks=1), list[str]()
    sets = ["training.epochs=1", "training.micro_batch_size=4"]  # of which the last is harmless
    assert train.finished(recipe, devices, run.path, said.append, sets) == runs.read_summary(run.path)
    assert said == [f"{run.path} is finished already and is used as it is; remove it to train again"]
    with pytest.raises(InputError, match=r"run: a finished run of another recipe: training\.epochs was 1 and is 2; mo"):
        train.finished(recipe, devices, run.path, said.append)
    (RunFolder(run.path).best / "config.json").unlink()
    with pytest.raises(DamagedError, match=r"config\.json: missing"):
        train.finished(recipe, devices, run.path, said.append, sets)


def test_a_launcher_that_ends_well_before_the_run_does_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DeepSpeed's does if pdsh is killed."""
    recipe = write_recipe(make_model(tmp_path / "model"), tmp_path)
    monkeypatch.setattr("bertline.launch.deepspeed_launcher.run", lambda *_: 0)
    with pytest.raises(
        BertlineError, match=r"the run is not finished; see that none of its ranks is left, and start it again$"
    ):
        train.start(recipe, Devices.choose(), run=tmp_path / "run")
