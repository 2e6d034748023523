"""A damaged checkpoint is detected before anything is loaded, and the one before it is used."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertline.artifacts.checkpoint import State, verify
from bertline.artifacts.errors import BertlineError, DamagedError, InputError
from bertline.artifacts.run import RunFolder
from bertline.train import checkpoints
from bertline.train.loop import Trainer
from tests.train import plain
from tests.train.conftest import losses, train_here

pytestmark = pytest.mark.usefixtures("rank")
SETS = ["training.save_steps=4"]


@pytest.fixture(scope="module")
def stopped(recipe: Path, rank: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with checkpoints of steps 4 and 8, stopped at step 10 of 12."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, folder, SETS, stop=10)
    return RunFolder(folder)


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, delete])
def test_every_damage_is_found(
    stopped: RunFolder, tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    """200 times for each kind of damage, in a random file, small ones as often as large ones."""
    chance, sound = random.Random(1), stopped.checkpoints / "step-8"
    copy = tmp_path / "step-8"
    shutil.copytree(sound, copy)
    files = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file())
    verify(copy)
    for _ in range(200):
        name = chance.choice(files)
        damage(copy / name, chance)
        with pytest.raises(DamagedError):
            verify(copy)
        shutil.copyfile(sound / name, copy / name)
    verify(copy)


def test_the_one_before_a_damaged_one_is_used(recipe: Path, stopped: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(stopped.path, run.path)
    flip(run.checkpoints / "step-8/deepspeed/mp_rank_00_model_states.pt", random.Random(1))
    told: list[str] = []
    newest = run.checkpoints / "step-4"
    assert checkpoints.newest(run.checkpoints, told.append) == (newest, verify(newest))
    assert len(told) == 1
    assert "step-8" in told[0]
    assert "its sha256 is not the one recorded" in told[0]
    train_here(recipe, run.path, SETS, resume=True)
    whole = train_here(recipe, tmp_path / "whole", SETS)
    assert losses(run) == losses(whole)
    assert (run.checkpoints / "damaged-step-8").is_dir()
    verify(run.checkpoints / "step-8")


def test_best_is_taken_back_to_the_checkpoint(recipe: Path, tmp_path: Path) -> None:
    """The model that was best later may never come again: other ranks round sums differently."""
    run, sets = RunFolder(tmp_path / "run"), ["training.epochs=3", "training.save_steps=5", "training.best=loss"]
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, run.path, sets, stop=11)
    then = plain.weights(run.best)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, run.path, sets, resume=True, stop=13)
    with pytest.raises(AssertionError, match="not equal"):  # step 12 was better
        torch.testing.assert_close(plain.weights(run.best), then, rtol=0, atol=0)

    def look(trainer: Trainer) -> None:
        assert trainer.state.step == 10
        assert trainer.best is not None
        assert trainer.best.step == 6
        torch.testing.assert_close(plain.weights(run.best), then, rtol=0, atol=0)

    train_here(recipe, run.path, sets, resume=True, look=look)
    verify(run.checkpoints / "step-18")


def test_no_sound_checkpoint_is_told(recipe: Path, stopped: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(stopped.path, tmp_path / "run")
    for step in (4, 8):
        (tmp_path / f"run/checkpoints/step-{step}/checkpoint.json").unlink()
    with pytest.raises(InputError, match="all checkpoints are damaged"):
        train_here(recipe, tmp_path / "run", SETS, resume=True)


def test_an_index_that_says_more_is_damaged(stopped: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(stopped.checkpoints / "step-8", tmp_path / "step-8")
    path = tmp_path / "step-8/checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(BertlineError, match=r"checkpoint\.json: not as it was written"):
        verify(tmp_path / "step-8")


def test_an_index_of_another_version_is_no_damage(recipe: Path, stopped: RunFolder, tmp_path: Path) -> None:
    """Only that version can read it, so no checkpoint is skipped or set aside."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(stopped.path, run.path)
    path = run.checkpoints / "step-8/checkpoint.json"
    later = {**json.loads(path.read_text()), "schema_version": 2, "weather": "fine", "sha256": ""}
    plain = json.dumps(later, indent=2)
    path.write_text(plain.replace('"sha256": ""', f'"sha256": "{hashlib.sha256(plain.encode()).hexdigest()}"') + "\n")
    with pytest.raises(InputError, match=r"checkpoint\.json: of schema_version 2, not 1; use the bertline that wrote"):
        train_here(recipe, run.path, SETS, resume=True)
    assert sorted(each.name for each in run.checkpoints.iterdir()) == ["step-4", "step-8"]


class Writing:
    """An engine that writes its checkpoint by calling `write`."""

    def __init__(self, write: Callable[[], Any]) -> None:
        self._write = write

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        self._write()

    def load_checkpoint(self, *_: Any, **__: Any) -> None: ...


def test_where_a_file_has_one_name_best_is_copied(
    stopped: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on object stores, and on FAT."""

    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = RunFolder(tmp_path / "run")
    shutil.copytree(stopped.best, run.best)
    checkpoints.save(Writing(lambda: None), State(ranks=1, precision="fp32", data="", started=""), run, keep=1)
    (saved,) = checkpoints.found(run.checkpoints)
    verify(saved)
    shutil.rmtree(run.best)
    checkpoints.restore_best(saved, run.best)
    assert plain.weights(run.best).keys() == plain.weights(stopped.best).keys()


def fail_on_the_device() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("write", "error", "words"),
    [
        (lambda: torch.save(torch.zeros(1 << 20), "/dev/full"), InputError, "could not be written"),
        (lambda: Path("/dev/full").write_text("full"), InputError, "No space left on device"),
        (fail_on_the_device, torch.OutOfMemoryError, "CUDA out of memory"),
    ],
)
def test_only_what_cannot_be_written_is_told_as_such(
    tmp_path: Path, write: Callable[[], Any], error: type[Exception], words: str
) -> None:
    state = State(ranks=1, precision="fp32", data="", started="")
    with pytest.raises(error, match=words):
        checkpoints.save(Writing(write), state, RunFolder(tmp_path), keep=1)
