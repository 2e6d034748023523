"""The cross-validation folds of a search: a recipe's training and validation rows in parts, each held out once.

    1/train.jsonl        what the fold's run learns from
    1/validation.jsonl   cut from the fold's training rows; chooses the checkpoint
    1/test.jsonl         the held-out part; scores the chosen checkpoint
    2/…
    unlabelled.jsonl     the recipe's unlabelled texts, shared by all folds; none of them is in a split
    folds.json           labels, rows per split of each fold, and the content of the data that was cut

The test split is cut first, exactly as a run of the recipe cuts it, and none of its texts is in a fold; every other
text appears once. A fold is scored on rows that had no influence on any decision of its run. Every cut is stratified by
label and never separates the rows of one group; where the recipe names no groups, rows with one context form a group.
"""

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts import files
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Data, Recipe, Search
from bertline.tasks.labels import sort_labels
from bertline.tasks.task import Example, Task
from bertline.train.data import sources, splitting
from bertline.train.data.mapped import Examples
from bertline.train.data.sources import UNLABELLED
from bertline.train.data.splitting import SPLITS, Indices

MOST_PARTS = 20
"""Parts into which the rows of a fold are cut at most, to choose several of them for validation."""
FACTS, TEXTS = "folds.json", f"{UNLABELLED}.jsonl"
Names = npt.NDArray[np.str_]


class Fold(NamedTuple):
    """The indices of the rows in each split of a fold."""

    train: Indices
    validation: Indices
    test: Indices


def make(recipe: Recipe, folder: Path) -> None:
    """Read the data that a recipe names, cut it into folds and write them to a new folder.

    Raises:
        InputError: as `splitting.make`; or there are too few groups, or rows of a label, for the number of folds.
    """
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    facts = _write(recipe, folder, scratch)
    shutil.rmtree(scratch)
    files.write_json(folder / FACTS, {**facts, "content": sources.content(recipe.data)})


def _write(recipe: Recipe, folder: Path, scratch: Path) -> dict[str, Any]:
    """Write the folds. The rows in `scratch` are mapped only meanwhile: NFS keeps a folder whose files are in use."""
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
    return {"labels": _labels(recipe, splits.task, pool), "put_aside": len(splits.test), "folds": counts}


def load(folder: Path) -> dict[str, Any]:
    """Read folds.json: labels, put_aside (rows of the test split), folds (rows by split for each), content."""
    found: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
    return found


def of(recipe: Recipe, folder: Path, number: int) -> Recipe:
    """The recipe that trains and scores a fold; the first fold has number 1."""
    places = {name: str((folder / str(number) / f"{name}.jsonl").absolute()) for name in SPLITS}
    pair = "text_pair" if recipe.data.text_pair else None
    texts = str((folder / TEXTS).absolute()) if (folder / TEXTS).exists() else None
    rows = Data(**places, unlabelled=texts, text_pair=pair, labels=load(folder)["labels"])
    return recipe.model_copy(update={"data": rows, "search": Search()})


def cut(recipe: Recipe, task: Task, pool: Sequence[Example], validation: int) -> Iterator[Fold]:
    """Cut rows into folds, by the recipe's seed.

    Args:
        recipe: gives the number of folds and the column that holds the groups.
        task: the task of the rows.
        pool: the rows.
        validation: the size of the validation split in a run of the recipe itself; each fold gets the same share.

    Raises:
        InputError: there are too few rows or groups for the number of folds.
    """
    folds, seed = recipe.search.folds, recipe.training.seed
    named = [task.named(example) for example in pool]
    count = Counter(chain.from_iterable(map(set, named)))
    strata = np.array([task.stratum(example) or min(found, key=count.__getitem__, default="")
                       for example, found in zip(pool, named, strict=True)])  # fmt: skip
    column = recipe.search.groups
    groups = splitting.units(pool, task) if column is None else _groups(recipe, column, pool)
    labels = set(count) if task.labels else set()  # whether a question has an answer is no label
    _check({name: count[name] for name in labels} or {"": len(pool)}, groups, recipe.search)
    if max(Counter(strata.tolist()).values()) < folds:  # scikit-learn refuses what has no stratum of enough rows
        strata = np.full(len(pool), "")
    everything = np.arange(len(pool))
    for number, held_out in enumerate(_parts(everything, strata, groups, folds, seed), 1):
        rest = np.setdiff1d(everything, held_out)
        chosen = _part(rest, strata, groups, validation / len(pool), seed)
        train = np.setdiff1d(rest, chosen)
        missing = sorted(labels - set(chain.from_iterable(named[index] for index in train)))
        if missing or not len(held_out):
            what = f"no training row with {', '.join(map(repr, missing))}" if missing else "nothing to hold out"
            raise InputError(f"search.folds: fold {number} of {folds} has {what}; add such rows, or use fewer folds")
        yield Fold(train, chosen, held_out)


def _parts(rows: Indices, strata: Names, groups: Indices | None, count: int, seed: int) -> list[Indices]:
    """Cut the rows into `count` parts."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # labels with fewer rows than parts: `cut` checks for them
        cutter = kind(count, shuffle=True, random_state=seed)
        parts = cutter.split(rows, strata[rows], None if groups is None else groups[rows])
        return [rows[held_out] for _, held_out in parts]


def _part(rows: Indices, strata: Names, groups: Indices | None, share: float, seed: int) -> Indices:
    """Choose about `share` of the rows, as one part or several.

    They are those that leave most strata something to train on and, with groups, whose size comes nearest.
    """
    most = max(Counter(strata[rows].tolist()).values())  # scikit-learn allows no more parts than a label has rows
    most = most if groups is None else min(most, len(np.unique(groups[rows])))
    if most < 2:
        raise InputError("search.folds: a fold leaves one row of each label to train on; add rows, or use fewer folds")
    count, wanted = _fraction(share, most)
    parts = [part for part in _parts(rows, strata, groups, count, seed) if len(part)]
    wanted = max(1, min(wanted, len(parts) - 1))
    # not neighbors: scikit-learn puts the rows of a rare stratum into parts that are
    spread = [[(first + n * len(parts) // wanted) % len(parts) for n in range(wanted)] for first in range(len(parts))]
    names, codes = np.unique(strata[rows], return_inverse=True)
    all_of = np.bincount(codes)

    def cost(chosen: Indices) -> tuple[int, float]:
        lost = np.bincount(codes[np.searchsorted(rows, chosen)], minlength=len(names)) == all_of
        return int(lost.sum()), abs(len(chosen) - share * len(rows))

    return min((np.sort(np.concatenate([parts[index] for index in each])) for each in spread), key=cost)


def _fraction(share: float, most: int) -> tuple[int, int]:
    """Into how many parts to cut, at most, and how many of them are about such a share; at least one is left."""
    if share < 1 / MOST_PARTS:
        return min(round(1 / share), most), 1
    near = Fraction(share).limit_denominator(min(most, MOST_PARTS))
    if near <= 0:
        return most, 1
    return (near.denominator, near.numerator) if near < 1 else (min(most, MOST_PARTS), min(most, MOST_PARTS) - 1)


def _check(counts: Mapping[str, int], groups: Indices | None, search: Search) -> None:
    """Reject data with too few rows of a label, or too few groups.

    Args:
        counts: the number of rows of each label; of all rows, if there are no labels.
        groups: a group ID for each row, or None.
        search: the recipe's.
    """
    few = {name: count for name, count in counts.items() if count < search.folds}
    if few:
        found = ", ".join(f"{name!r} has {count}" if name else f"there are {count}" for name, count in few.items())
        raise InputError(f"search.folds: {search.folds} folds need at least as many rows of each label, but {found}")
    if groups is not None and (count := len(np.unique(groups))) <= search.folds:
        values = f"search.groups: {count} values of {search.groups!r}"
        raise InputError(
            f"{values if search.groups else f'search.folds: {count} contexts'} are too few for {search.folds} folds: "
            "each fold holds out at least one, and trains and validates on two others"
        )


def _groups(recipe: Recipe, column: str, pool: Sequence[Example]) -> Indices:
    """A group ID for each row.

    Examples do not hold the group column, so the source rows are read again and matched by their texts. If several rows
    have a text, the first in the validation split counts, if the recipe names one that has it, else the first of all.
    """
    task, columns = splitting.reader(recipe), sources.columns(recipe.data)
    found: dict[bytes, str] = {}
    places = sources.named(recipe.data)
    for name in ("validation", "train"):
        for where, row in sources.kept(places[name], name, recipe.data, task, set()) if name in places else ():
            if row.get(column) in (None, ""):  # as JSON or CSV has it
                raise InputError(f"search.groups: {where}: column {column!r} is empty")
            found.setdefault(splitting.digest(task.read(row, columns, where).texts), str(row[column]))
    names = [found[splitting.digest(example.texts)] for example in pool]
    return np.unique(names, return_inverse=True)[1]


def _labels(recipe: Recipe, task: Task, pool: Iterable[Example]) -> list[str] | None:
    """The labels that a fold's recipe names, because its run must know a rare label even where no row has it."""
    found = sort_labels({name for example in pool for name in task.named(example)})
    return recipe.data.label_names or (found if task.name_labels(found) == task.labels else None)
