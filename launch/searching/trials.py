"""The search itself: folds are cut, trials are run fold by fold, the unpromising given up; what came of it is written.

recipe.yaml            the recipe as resolved
folds/                 the rows of each fold: train/folds.py
study.log              Optuna's journal: every trial, what it chose and scored
recipes/*.yaml         the recipe of each run
runs/trial-N-fold-K/   run.json, metrics.jsonl and recipe.yaml of each; its weights are not kept
search.json            the trials by rank, the best and what to expect of it; written when all are done
best.yaml              the recipe with the best settings
importance.svg         which keys mattered

Nothing is done twice: a fold whose run.json is there is read, one that was interrupted resumes from its checkpoint.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study, Trial
from optuna.trial import TrialState

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.artifacts.recipe import Recipe
from bertline.artifacts.run import RunFolder, Summary
from bertline.launch.searching import importance, results, study
from bertline.train import folds

Train = Callable[[Path, Path, bool], object]
"""Given a recipe, the folder of its run and whether it is there to be resumed: trains."""
Say = Callable[[str], None]


def search(recipe: Recipe, folder: Path, train: Train, say: Say) -> dict[str, Any]:
    """Run all trials of a search that are not done, and tell what came of it.

    Args:
        recipe: of the search.
        folder: of it; one that was begun is gone on with.
        train: makes the run of a fold.
        say: takes a line of progress.

    Returns:
        search.json.

    Raises:
        InputError: of the data or the folder, or as `train`.
        PreemptedError: it was asked to stop, and can go on.
        BertlineError: a run failed before any had succeeded, or every trial failed.
    """
    begin(recipe, folder, say)
    with _locked(folder):
        kept = study.opened(recipe, folder / "study.log")
        trials = Trials(recipe, folder, train, say, kept)
        while (trial := study.following(kept, recipe)) is not None:
            trials.run(trial)
        found = results.collect(kept, recipe, folder / "best.yaml")
        say(importance.draw(kept, recipe, folder / "importance.svg"))
        recipes.save(results.best_recipe(recipe, found), folder / "best.yaml")
        files.write_json(folder / "search.json", found)
        return found


def begin(recipe: Recipe, folder: Path, say: Say) -> None:
    """Cut the folds of a new search, or see that those of one that was begun are of this recipe and these data.

    Raises:
        InputError: they are not, or the folder holds something else; or as `folds.make`.
    """
    kept = folder / "recipe.yaml"
    if not folder.exists():
        say(f"reading {recipe.data.train}")
        with files.new_folder(folder) as temporary:
            recipes.save(recipe, temporary / kept.name)
            folds.make(recipe, temporary / "folds")
    elif not (folder / "folds").exists() or not kept.exists():
        raise InputError(f"{folder}: exists and is no search; name another folder with -o")
    faults = [
        f"{key}: {now!r} now, {then!r} when {folder} began; a search goes on with its own recipe: {kept}"
        for key, (now, then) in recipes.differences(recipe, recipes.read(kept)).items()
    ]
    facts = folds.load(folder / "folds")
    if not faults and folds.content(recipe) != facts["content"]:
        faults = [f"{folder}: the data is not what the search began with; restore it, or name another folder with -o"]
    if faults:
        raise InputError(*faults)
    test = f"{facts['put_aside']:,} test texts are put aside"
    say(f"{test}; folds (train, validation, held out): {_sizes(facts['folds'])}")


@dataclass
class Trials:
    """What it takes to run a trial."""

    recipe: Recipe
    folder: Path
    train: Train
    say: Say
    study: Study

    def run(self, trial: Trial) -> None:
        """Score a trial, fold by fold, until it is given up or done.

        Raises:
            PreemptedError: it was asked to stop, and can go on.
            BertlineError: its run failed, and none has succeeded yet: it is not the settings.
        """
        settings, count = study.settings(trial), self.recipe.search.folds
        name = f"trial {trial.number + 1}/{study.size(self.recipe.search)}"
        self.say(f"{name}: {results.words(settings)}")
        scores: list[float] = []
        seconds = 0.0
        for number in range(1, count + 1):
            try:
                summary = self._fold(study.number(self.study, trial), settings, number)
            except PreemptedError:
                raise PreemptedError(f"{self.folder}: stopped as asked; the same command goes on") from None
            except InputError:
                raise
            except BertlineError as error:
                self._fail(trial, error)
                return
            scores.append(summary.test[summary.metric])
            seconds += summary.seconds
            trial.set_user_attr("seconds", round(seconds, 1))
            study.report(self.study, trial, scores)
            mean = float(np.mean(scores))
            self.say(f"{name}, fold {number}/{count}: {summary.metric} {scores[-1]:.4f}; mean {mean:.4f}")
            if number < count and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                self.say(f"{name}: given up")
                return
        self.study.tell(trial, float(np.mean(scores)))

    def _fold(self, trial: int, settings: dict[str, Any], number: int) -> Summary:
        """What the run of a fold was; it is run or resumed if need be."""
        name = f"trial-{trial}-fold-{number}"
        run = RunFolder(self.folder / "runs" / name)
        if not run.summary.exists():
            recipe = recipes.with_settings(self.recipe, settings | {"name": f"{self.recipe.name}-{name}"})
            path = self.folder / "recipes" / f"{name}.yaml"
            recipes.save(folds.of(recipe, self.folder / "folds", number), path)
            self.train(path, run.path, run.recipe.exists())
        summary = runs.read_summary(run.path)
        for done_with in (run.best, run.checkpoints, run.path / "splits"):
            shutil.rmtree(done_with, ignore_errors=True)
        return summary

    def _fail(self, trial: Trial, error: BertlineError) -> None:
        """Settings may be at fault, a learning rate under which the loss grows; but only where others are not."""
        if not any((self.folder / "runs").glob("*/run.json")):
            raise error
        self.study.tell(trial, state=TrialState.FAIL)
        self.say(f"{error}\ntrial {trial.number + 1}: failed; it counts as one that scores nothing")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else searches there, nor while ranks of ours are left: DeepSpeed's launcher inherits the lock."""
    with (folder / "lock").open("w") as stream:
        os.set_inheritable(stream.fileno(), True)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another process searches there, or left ranks at work; wait") from None
        yield


def _sizes(counts: Sequence[dict[str, int]]) -> str:
    return ", ".join("/".join(f"{count:,}" for count in fold.values()) for fold in counts)
