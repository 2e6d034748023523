"""The trials of a search, which Optuna chooses, prunes and keeps in a journal file.

With a grid, every combination is enqueued when the study is created, in the recipe's order. With a space, a sampler
chooses each trial, seeded with the recipe's seed and the trial's number, so that the next trial is the same whatever
was interrupted. https://optuna.readthedocs.io/en/stable/reference/
"""

import json
from collections.abc import Collection, Mapping
from itertools import product, takewhile
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import optuna
from optuna import Study, Trial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bertline.artifacts.recipe_schema import Recipe, Search
from bertline.train import metrics

HALF = 2
"""Successive halving: of the trials that reach 1, 2, 4, … folds, half continue."""

FAILED, SUSPECTED = "failed", "suspected"
"""Attributes of a trial that failed, and of one whose failure ended the search as possibly the machine's fault."""


def opened(recipe: Recipe, path: Path) -> Study:
    """Create or load the study of a search, which no other process may have open."""
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
    """The next trial to run: an interrupted one if there is any, else a new one; None when all have been started.

    Args:
        study: the study of the search.
        recipe: recipe of the search.
        at_work: numbers of the trials that are running, and so were not interrupted.
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
    """The recipe keys that a trial sets, with their values."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in trial.params.items()}


def number(study: Study, trial: Trial) -> int:
    """The number of a trial, from 1. A trial with the settings of an earlier one shares its number and its runs."""
    same = (one.number for one in study.get_trials(deepcopy=False) if one.params == trial.params)
    return next(same) + 1


def report(study: Study, trial: Trial, scores: list[float]) -> None:
    """Store the scores of a trial's folds so far, and report their mean to the pruner."""
    trial.set_user_attr("folds", scores)
    before = study.get_trials(deepcopy=False)[trial.number].intermediate_values
    if len(scores) not in before:  # reported already if the trial was interrupted just after it
        trial.report(float(np.mean(scores)), len(scores))


def fail(study: Study, trial: Trial) -> None:
    """Mark a trial as failed. For Optuna it is pruned, because samplers ignore trials in the state FAIL."""
    trial.set_user_attr(FAILED, True)
    study.tell(trial, state=TrialState.PRUNED)


def has_failed(trial: FrozenTrial) -> bool:
    """Whether a trial was marked as failed."""
    return trial.state == TrialState.PRUNED and FAILED in trial.user_attrs


def failed_last(study: Study) -> list[FrozenTrial]:
    """The trials that failed since one last completed or was pruned, latest first."""
    known = study.get_trials(deepcopy=False)
    ended = sorted((one.datetime_complete, one.number) for one in known if one.datetime_complete is not None)
    return list(takewhile(has_failed, (known[number] for _, number in reversed(ended))))


def _combinations(search: Search) -> list[dict[str, str]]:
    """The distinct combinations of a grid, with values as JSON; empty for a space."""
    values = [list(dict.fromkeys(map(json.dumps, some))) for some in search.grid.values()]
    return [dict(zip(search.grid, each, strict=True)) for each in product(*values)] if search.grid else []


def _sampler(recipe: Recipe, number: int) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence(recipe.training.seed, spawn_key=(number,)).generate_state(1)[0])
    kind = optuna.samplers.TPESampler if recipe.search.sampler == "tpe" else optuna.samplers.RandomSampler
    return kind(seed=seed)


def _choose(trial: Trial, key: str, value: list[Any] | Mapping[str, Any]) -> None:
    """Let a trial choose a value, if it has none yet, from a list (as JSON, since Optuna takes no lists) or a range."""
    if isinstance(value, list):
        trial.suggest_categorical(key, [json.dumps(each) for each in value])
        return
    whole = isinstance(value["low"], int) and isinstance(value["high"], int) and not _takes_fractions(key)
    suggest = trial.suggest_int if whole else trial.suggest_float
    suggest(key, value["low"], value["high"], log=value.get("log", False))


def _takes_fractions(key: str) -> bool:
    """Whether a recipe key is a float, or a value of a mapping to floats, as class weights are."""
    kind: Any = Recipe
    for part in key.split("."):
        if not hasattr(kind, "model_fields"):
            return any(float in _kinds(value) for one in _kinds(kind) for value in get_args(one)[1:])
        field = kind.model_fields.get(part)
        kind = None if field is None else field.annotation
    return float in _kinds(kind)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """An annotation and what it is a union of, or annotates."""
    found = (annotation, *get_args(annotation))
    return (*found, *(each for one in found if get_origin(one) is Annotated for each in get_args(one)))


def _repair(journal: Path) -> None:
    """Remove what a killed process left behind: a partial last line in the journal, and its lock."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("rb+") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)
