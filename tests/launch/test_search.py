"""Searches by cross-validation: what is run and what is not, going on after an interruption, ranks and what to expect."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.launch.searching import importance, results, study, trials
from tests.conftest import make_model
from tests.train.conftest import train_here, write_recipe

LEARNS, DOES_NOT = 3e-3, 1e-8
SETS = ["training.epochs=1", "training.logging_steps=100", "data.take={train: 60, validation: 20, test: 30}"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recipe that searches nothing yet."""
    folder = tmp_path_factory.mktemp("search")
    return write_recipe(make_model(folder / "model"), folder)


def asked(plain: Path, **search: Any) -> recipes.Recipe:
    return recipes.load(plain, [*SETS, f"search={json.dumps(search)}"], searches=True)


class Trains:
    """Trains in this process; remembers what, and may be interrupted."""

    def __init__(self, stop: dict[str, int] | None = None) -> None:
        self.begun: list[str] = []
        self.resumed: list[str] = []
        self.stop = stop or {}

    def __call__(self, recipe: Path, run: Path, resume: bool) -> None:
        (self.resumed if resume else self.begun).append(run.name)
        train_here(recipe, run, resume=resume, stop=self.stop.get(run.name, 0))


def search(recipe: recipes.Recipe, folder: Path, train: Callable[[Path, Path, bool], object]) -> dict[str, Any]:
    return trials.search(recipe, folder, train, lambda words: None)


def test_an_interrupted_search_goes_on_and_does_nothing_twice(rank: None, plain: Path, tmp_path: Path) -> None:
    grid = {"training.learning_rate": [DOES_NOT, LEARNS], "training.freeze": [{"embeddings": True}]}
    recipe = asked(plain, folds=2, grid=grid)
    first = Trains({"trial-1-fold-2": 2})
    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path / "search", first)
    assert first.begun == ["trial-1-fold-1", "trial-1-fold-2"]
    done = (tmp_path / "search/runs/trial-1-fold-1/run.json").read_bytes()
    second = Trains()
    found = search(recipe, tmp_path / "search", second)
    assert second.begun == ["trial-2-fold-1", "trial-2-fold-2"]
    assert second.resumed == ["trial-1-fold-2"]
    assert (tmp_path / "search/runs/trial-1-fold-1/run.json").read_bytes() == done
    assert found["best"]["set"] == {"training.learning_rate": LEARNS, "training.freeze": {"embeddings": True}}
    assert json.loads((tmp_path / "search/search.json").read_text()) == found
    third = Trains()
    assert search(recipe, tmp_path / "search", third) == found
    assert not third.begun + third.resumed
    whole = search(recipe, tmp_path / "whole", Trains())
    assert [row["folds"] for row in whole["trials"]] == [row["folds"] for row in found["trials"]]


def test_half(rank: None, plain: Path, tmp_path: Path) -> None:
    pass
