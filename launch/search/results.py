"""What a search found: its ranked trials, the best of them, and the score to expect of it on unseen data."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import BertlineError
from bertline.artifacts.recipe_schema import Recipe, Search
from bertline.launch.search import study as studies
from bertline.train import metrics

STATES = ("complete", "pruned", "failed")
"""The states of a trial, in the order of their rank."""


def collect(study: Study, recipe: Recipe, best: Path) -> dict[str, Any]:
    """The contents of search.json.

    Args:
        study: a study whose trials are all done.
        recipe: recipe of the search.
        best: where the best recipe will be written.

    Raises:
        BertlineError: every trial failed.
    """
    ranked = rank(study, recipe.metric)
    first = ranked[0]
    if first["state"] != "complete":
        raise BertlineError(f"{best.parent}: no trial completed; the reasons are above")
    return {
        "metric": recipe.metric,
        "best": {"recipe": str(best), **{key: first[key] for key in ("trial", "set", "mean", "std")}},
        "estimate": estimate(ranked, recipe.metric),
        "trials": ranked,
    }


def rank(study: Study, metric: str) -> list[dict[str, Any]]:
    """The trials, best first. Trials with equal settings are merged under the number that their runs have."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        row = _row(trial)
        before = rows.get(key := json.dumps(row["set"]))
        if before is None:
            rows[key] = row
        elif len(row["folds"]) > len(before["folds"]):
            rows[key] = row | {"trial": before["trial"]}
    worst = float("inf")
    return sorted(
        rows.values(),
        key=lambda row: (
            STATES.index(row["state"]),
            -len(row["folds"]),
            worst if row["mean"] is None else -_sign(metric) * row["mean"],
        ),
    )


def estimate(ranked: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """The score to expect of the best trial on new data: its mean, less part of the bias from having been selected.

    On each fold the best of all trials beats the chosen one by some margin, though not on all folds together. The mean
    of these margins estimates the bias: Tibshirani and Tibshirani, A bias correction for the minimum error rate in
    cross-validation, Annals of Applied Statistics 3 (2009), 822-829. Pruned trials count only on the folds that they
    ran, so the correction is too small when there are few folds; docs/search.md says by how much.

    Args:
        ranked: trials with the scores of their folds, the chosen one first.
        metric: the metric it was chosen by.

    Returns:
        `value`, and `optimism`, the correction that was subtracted from the mean (added for a loss).
    """
    sign, chosen = _sign(metric), ranked[0]
    margins = []
    for number, score in enumerate(chosen["folds"]):
        others = [trial["folds"][number] for trial in ranked if len(trial["folds"]) > number]
        margins.append(max(sign * (other - score) for other in others))
    optimism = float(np.mean(margins))
    return {"value": chosen["mean"] - sign * optimism, "optimism": optimism}


def best_recipe(recipe: Recipe, found: Mapping[str, Any]) -> Recipe:
    """The recipe with the best settings and no search, ready to train on all of its data."""
    return recipes.with_settings(recipe, found["best"]["set"]).model_copy(update={"search": Search()})


def show(found: Mapping[str, Any]) -> None:
    """Print the ranked trials and what to do next."""
    screen = Console(stderr=True, highlight=False, markup=False, emoji=False)  # settings must not be read as markup
    screen.print(table(found))
    screen.print(conclusion(found), soft_wrap=True)


def table(found: Mapping[str, Any]) -> Table:
    """The ranked trials with mean, standard deviation and cost."""
    keys = list(found["best"]["set"])
    title = f"{found['metric']} over folds, best first"
    drawn = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("trial", *_headings(keys), "mean", "std", "folds", "cost", ""):
        drawn.add_column(column, justify="right", overflow="fold")  # a truncated value would say nothing
    for row in found["trials"]:
        drawn.add_row(
            str(row["trial"]), *(_short(row["set"].get(key)) for key in keys), _score(row["mean"]), _score(row["std"]),
            str(len(row["folds"])), _duration(row["seconds"]), "" if row["state"] == "complete" else row["state"],
        )  # fmt: skip
    total = _duration(sum(row["seconds"] for row in found["trials"]))
    drawn.caption = f"{len(found['trials'])} trials, {total} of training"
    return drawn


def conclusion(found: Mapping[str, Any]) -> str:
    """The best trial in words, and what to do next."""
    best, expected = found["best"], found["estimate"]
    return (
        f"trial {best['trial']} is the best: {words(best['set'])}\n"
        f"{found['metric']} {best['mean']:.4f}, standard deviation over folds {best['std']:.4f}; "
        f"expect {expected['value']:.4f} or a little worse on new data, since at least {expected['optimism']:.4f} is "
        "selection bias\n"
        f"next: bertline train {best['recipe']}, which scores on the test split that no trial has seen"
    )


def words(settings: Mapping[str, Any]) -> str:
    """Settings in the form that --set takes."""
    return ", ".join(f"{key}={_short(value)}" for key, value in settings.items())


def _row(trial: FrozenTrial) -> dict[str, Any]:
    scores = trial.user_attrs.get("folds", [])
    return {
        "trial": trial.number + 1,
        "set": studies.settings(trial),
        "mean": float(np.mean(scores)) if scores else None,
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "folds": scores,
        "seconds": trial.user_attrs.get("seconds", 0.0),
        "state": "failed" if studies.has_failed(trial) else trial.state.name.lower(),
    }


def _headings(keys: Sequence[str]) -> list[str]:
    """The last part of each key, to save room in the table; the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for short, key in zip(last, keys, strict=True)]


def _sign(metric: str) -> int:
    """1 if a higher value of the metric is better, -1 if a lower one is."""
    return -1 if metrics.better(0.0, 1.0, metric) else 1


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
