"""The folds of a search: a recipe's training and validation rows in parts, each held out once.

    1/train.jsonl        what the fold's run learns from
    1/validation.jsonl   cut from those rows: chooses the checkpoint
    1/test.jsonl         the part that is held out: scores the checkpoint, which it has not chosen
    2/…
    unlabelled.jsonl     the recipe's texts without labels, for every fold: none of them is in a split
    folds.json           labels, how many rows are in each, and what they were cut from

The test split is cut first, as a run of the recipe cuts it, and none of its texts is in a fold; any other text is there
once. The score of a fold is of rows that had no say in anything that its run decided. Labels are in proportion in every
cut, and rows of one group are never on both sides of one; where the recipe names no groups, those are of one context.
"""

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts import files
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Data, Recipe, Search
from bertline.tasks.task import Example, Task, sort_labels
from bertline.train.data import sources, splitting
from bertline.train.data.mapped import Examples
from bertline.train.data.sources import UNLABELLED
from bertline.train.data.splitting import SPLITS, Indices

FACTS, TEXTS = "folds.json", f"{UNLABELLED}.jsonl"
Names = npt.NDArray[np.str_]


class Fold(NamedTuple):
    """The rows of a fold's run, by index."""

    train: Indices
    validation: Indices
    test: Indices


def make(recipe: Recipe, folder: Path) -> None:
    """Read the data that a recipe names and cut it into a new folder.

    Raises:
        InputError: as `splitting.make`; or there are too few rows of a label, or too few groups, for so many folds.
    """
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    splits = splitting.make(recipe, scratch)
    rows = chain(splits.train, splits.validation)
    pool = Examples.write(scratch / "pool.arrow", splitting.new(rows, splits.test))
    counts = []
    for number, fold in enumerate(cut(recipe, splits.task, pool, len(splits.validation)), 1):
        for name in SPLITS:
            splitting.write(
                folder / str(number) / f"{name}.jsonl", (pool[index] for index in getattr(fold, name)), splits.task
            )
        counts.append({name: len(getattr(fold, name)) for name in SPLITS})
    if splits.unlabelled:
        splitting.write(folder / TEXTS, splits.unlabelled, splits.task)
    shutil.rmtree(scratch)
    facts = {"labels": _labels(recipe, splits.task, pool), "put_aside": len(splits.test), "folds": counts}
    files.write_json(folder / FACTS, {**facts, "content": sources.content(recipe.data)})


def load(folder: Path) -> dict[str, Any]:
    """What `make` says of its folds: labels, put_aside (rows of the test split), folds (a count of rows by split)."""
    found: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
    return found


def of(recipe: Recipe, folder: Path, number: int) -> Recipe:
    """A recipe whose run is that of a fold, the first being 1."""
    places = {name: str((folder / str(number) / f"{name}.jsonl").absolute()) for name in SPLITS}
    pair = "text_pair" if recipe.data.text_pair else None
    texts = str((folder / TEXTS).absolute()) if (folder / TEXTS).exists() else None
    rows = Data(**places, unlabelled=texts, text_pair=pair, labels=load(folder)["labels"])
    return recipe.model_copy(update={"data": rows, "search": Search()})


def cut(recipe: Recipe, task: Task, pool: Sequence[Example], validation: int) -> Iterator[Fold]:
    """The folds of some rows, by the recipe's seed.

    Args:
        recipe: says how many folds, and which column has the groups.
        task: of the rows.
        pool: of them.
        validation: how many of them choose the checkpoint in a run of the recipe itself; in a fold as many in
            proportion.

    Raises:
        InputError: there are too few rows or groups for so many.
    """
    folds, seed = recipe.search.folds, recipe.training.seed
    strata = np.array([task.stratum(example) or "" for example in pool])
    column = recipe.search.groups
    groups = splitting.units(pool, task) if column is None else _groups(recipe, column, pool)
    _check(strata, groups, recipe.search)
    named = [task.named(example) for example in pool]
    labels = set(chain.from_iterable(named))
    everything = np.arange(len(pool))
    for number, held_out in enumerate(_parts(everything, strata, groups, folds, seed), 1):
        rest = np.setdiff1d(everything, held_out)
        chosen = _part(rest, strata, groups, validation / len(pool), seed)
        train = np.setdiff1d(rest, chosen)
        missing = sorted(labels - set(chain.from_iterable(named[index] for index in train)))
        if missing or not len(held_out):
            what = f"no training row with {', '.join(map(repr, missing))}" if missing else "nothing to hold out"
            raise InputError(f"search.folds: fold {number} of {folds} has {what}; give more rows of it, or fewer folds")
        yield Fold(train, chosen, held_out)


def _parts(rows: Indices, strata: Names, groups: Indices | None, count: int, seed: int) -> list[Indices]:
    """The rows in so many parts."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels with fewer rows than parts: `cut` looks itself
        cutter = kind(count, shuffle=True, random_state=seed)
        parts = cutter.split(rows, strata[rows], None if groups is None else groups[rows])
        return [rows[held_out] for _, held_out in parts]


def _part(rows: Indices, strata: Names, groups: Indices | None, share: float, seed: int) -> Indices:
    """About a share of the rows; of groups, those that come nearest."""
    most = max(Counter(strata[rows].tolist()).values())  # of one label: scikit-learn makes no more parts than that
    most = most if groups is None else min(most, len(np.unique(groups[rows])))
    if most < 2:
        raise InputError("search.folds: what a fold leaves has one row of each label; give more rows, or fewer folds")
    parts = _parts(rows, strata, groups, min(max(2, round(1 / share)), most), seed)
    return min((part for part in parts if len(part)), key=lambda part: abs(len(part) - share * len(rows)))


def _check(strata: Names, groups: Indices | None, search: Search) -> None:
    """Refuse what cannot be cut."""
    few = {name: count for name, count in Counter(strata.tolist()).items() if count < search.folds}
    if few:
        found = ", ".join(f"{name!r} has {count}" if name else f"there are {count}" for name, count in few.items())
        raise InputError(f"search.folds: {search.folds} folds need as many rows of each label, but {found}")
    if groups is not None and (count := len(np.unique(groups))) <= search.folds:
        values = f"search.groups: {count} values of {search.groups!r}"
        raise InputError(
            f"{values if search.groups else f'search.folds: {count} contexts'} are too few for {search.folds} folds: "
            "each holds out one at least, and trains and validates on two others"
        )


def _groups(recipe: Recipe, column: str, pool: Sequence[Example]) -> Indices:
    """A number for the group of each row. Examples hold no other columns: the rows are read again, found by texts.

    The row of a text that is in the pool is that of the validation split, if the recipe names one and it is there, and
    else the first.
    """
    task, columns = splitting.reader(recipe), sources.columns(recipe.data)
    found: dict[bytes, str] = {}
    places = sources.named(recipe.data)
    for name in ("validation", "train"):
        for where, row in sources.kept(places[name], name, recipe.data, set()) if name in places else ():
            if row.get(column) is None:
                raise InputError(f"search.groups: {where}: nothing in column {column!r}")
            found.setdefault(splitting.digest(task.read(row, columns, where).texts), str(row[column]))
    names = [found[splitting.digest(example.texts)] for example in pool]
    return np.unique(names, return_inverse=True)[1]


def _labels(recipe: Recipe, task: Task, pool: Iterable[Example]) -> list[str] | None:
    """What a fold's recipe calls the labels: of a rare one its run may see no row, and must know it all the same."""
    found = sort_labels({name for example in pool for name in task.named(example)})
    return recipe.data.label_names or (found if task.name_labels(found) == task.labels else None)
