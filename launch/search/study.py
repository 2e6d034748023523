"""The trials of a search, which Optuna chooses, gives up and keeps in a journal file.

Of a grid every combination waits in the study from the beginning, in the recipe's order. Of a space each trial is
chosen by a sampler whose seed is that of the recipe and the trial's number: whatever was interrupted, the next trial is
the same. https://optuna.readthedocs.io/en/stable/reference/
"""

import json
from collections.abc import Collection, Mapping
from itertools import product, takewhile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
from optuna import Study, Trial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bertline.artifacts.recipe_schema import Recipe, Search
from bertline.train import metrics

HALF = 2
"""Of the trials that reach as many folds as a power of this, one in so many goes on: successive halving."""

FAILED, SUSPECTED = "failed", "suspected"
"""Attributes of a trial that failed, and of one over whose failure the search was ended, lest it was the machine's."""


def opened(recipe: Recipe, path: Path) -> Study:
    """The study of a search, begun or gone on with; nobody else may have it open."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _repair(path)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=recipe.name,
        direction="minimize" if metrics.better(0.0, 1.0, recipe.metric) else "maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALF),
        load_if_exists=True,
    )
    for combination in _combinations(recipe.search):
        study.enqueue_trial(combination, skip_if_exists=True)
    return study


def size(search: Search) -> int:
    """How many trials a search has."""
    return len(_combinations(search)) or search.trials


def following(study: Study, recipe: Recipe, at_work: Collection[int] = ()) -> Trial | None:
    """A trial that was interrupted, else a new one; None when there are as many as there are to be.

    Args:
        study: of them.
        recipe: of the search.
        at_work: numbers of trials that are running, not interrupted.
    """
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    left = [trial for trial in begun if trial.state == TrialState.RUNNING and trial.number not in at_work]
    if not left and len(begun) >= size(recipe.search):
        return None
    study.sampler = _sampler(recipe, left[0].number if left else len(begun))
    trial = Trial(study, left[0]._trial_id) if left else study.ask()
    for key, value in (recipe.search.grid or recipe.search.space).items():
        _choose(trial, key, value)
    return trial


def settings(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """The values that a trial gives to keys of the recipe."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in trial.params.items()}


def number(study: Study, trial: Trial) -> int:
    """The number of a trial, from 1; that of the first with the same settings, whose runs are its runs."""
    same = (one.number for one in study.get_trials(deepcopy=False) if one.params == trial.params)
    return next(same) + 1


def report(study: Study, trial: Trial, scores: list[float]) -> None:
    """Keep the scores of a trial's folds so far; the pruner looks at their mean."""
    trial.set_user_attr("folds", scores)
    before = study.get_trials(deepcopy=False)[trial.number].intermediate_values
    if len(scores) not in before:  # else it was interrupted after that
        trial.report(float(np.mean(scores)), len(scores))


def fail(study: Study, trial: Trial) -> None:
    """Count a trial as failed. For Optuna it is given up: from what has the state FAIL its samplers learn nothing."""
    trial.set_user_attr(FAILED, True)
    study.tell(trial, state=TrialState.PRUNED)


def has_failed(trial: FrozenTrial) -> bool:
    """Whether a trial counts as failed."""
    return trial.state == TrialState.PRUNED and FAILED in trial.user_attrs


def failed_last(study: Study) -> list[FrozenTrial]:
    """The trials that failed since one last succeeded or was given up, the last first."""
    known = study.get_trials(deepcopy=False)
    ended = sorted((one.datetime_complete, one.number) for one in known if one.datetime_complete is not None)
    return list(takewhile(has_failed, (known[number] for _, number in reversed(ended))))


def _combinations(search: Search) -> list[dict[str, str]]:
    """Those of a grid, each once, values as JSON; none of a space."""
    values = [list(dict.fromkeys(map(json.dumps, some))) for some in search.grid.values()]
    return [dict(zip(search.grid, each, strict=True)) for each in product(*values)] if search.grid else []


def _sampler(recipe: Recipe, number: int) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence(recipe.training.seed, spawn_key=(number,)).generate_state(1)[0])
    kind = optuna.samplers.TPESampler if recipe.search.sampler == "tpe" else optuna.samplers.RandomSampler
    return kind(seed=seed)


def _choose(trial: Trial, key: str, value: list[Any] | Mapping[str, Any]) -> None:
    """Let a trial choose a value, if it has not: from a list (as JSON, for Optuna takes no lists), or from a range."""
    if isinstance(value, list):
        trial.suggest_categorical(key, [json.dumps(each) for each in value])
        return
    whole = isinstance(value["low"], int) and isinstance(value["high"], int) and not _may_be_broken(key)
    suggest = trial.suggest_int if whole else trial.suggest_float
    suggest(key, value["low"], value["high"], log=value.get("log", False))


def _may_be_broken(key: str) -> bool:
    """Whether a key of a recipe takes numbers between whole ones."""
    kind: Any = Recipe
    for part in key.split("."):
        field = getattr(kind, "model_fields", {}).get(part)
        kind = None if field is None else field.annotation
    return float in (kind, *get_args(kind))


def _repair(journal: Path) -> None:
    """Take back what a kill has left half done: the last line of the journal, and its lock."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("rb+") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)
