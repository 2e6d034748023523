"""The splits of a run: rows without duplicates, cut into training, validation and test, in memory-mapped files.

The splits depend on data, recipe and seed alone. Memory holds at most a hash of each row's text and its label; texts
stay on disk.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import isclose
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts import files
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Data, Recipe, Take
from bertline.artifacts.run import RunFolder
from bertline.artifacts.sequences import evenly_spaced
from bertline.tasks import catalog
from bertline.tasks.task import Example, Task
from bertline.train.data import sources
from bertline.train.data.mapped import Examples
from bertline.train.data.sources import UNLABELLED

Indices = npt.NDArray[np.int64]
SPLITS = ("train", "validation", "test")
CALIBRATION = 512
"""Training examples that the run keeps for calibration: more of them change no scale noticeably."""
NUMBERS = 10
"""More numeric labels than this are seldom meant as class names."""


@dataclass(frozen=True)
class Splits:
    """What a run is trained and scored on."""

    task: Task
    """Its labels are those that the recipe names, or else those found in the data."""
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    unlabelled: Sequence[Example]
    """Texts without labels, which only a teacher's outputs make useful."""
    duplicates: int
    """Training rows left out because their text also appears elsewhere in the data."""
    leaked: int
    """Duplicates whose text appears in a held-out split that the recipe names."""
    contradicting: int
    """Duplicates whose label differs from that of the row that is kept."""
    fingerprint: str
    """The sha256 of labels and examples in order: a run resumes only on the data that it started with."""

    @property
    def left_out(self) -> str:
        """The duplicates in words; empty where there are none."""
        if not self.duplicates:
            return ""
        words = f"{self.duplicates:,} {'row' if self.duplicates == 1 else 'rows'} left out as duplicates"
        if not self.contradicting:
            return words
        return f"{words}, {self.contradicting:,} of them labelled differently from the row that is kept"

    def counts(self) -> dict[str, int]:
        """The number of examples in each split."""
        counts = {name: len(getattr(self, name)) for name in SPLITS}
        return {**counts, UNLABELLED: len(self.unlabelled)} if self.unlabelled else counts

    def save(self, run: RunFolder) -> None:
        """Write the held-out splits and a few evenly spaced training examples into the run."""
        for path, examples in (
            (run.split("validation"), self.validation),
            (run.split("test"), self.test),
            (run.split("calibration"), evenly_spaced(self.train, CALIBRATION)),
        ):
            write(path, examples, self.task)


def write(path: Path, examples: Iterable[Example], task: Task) -> None:
    """Write examples as JSON lines, in the columns that the task reads by default."""
    with files.new_file(path) as stream:
        for example in examples:
            stream.write((json.dumps(task.row(example), ensure_ascii=False) + "\n").encode())


def make(recipe: Recipe, folder: Path) -> Splits:
    """Read the examples that a recipe names and cut them into splits, as files in `folder`.

    Raises:
        InputError: rows without a text, or with a label that is missing or unknown, each with file and row; a label
            without enough training rows; fewer rows than the splits need; a value of `data.where` that no row has.
    """
    data, known = recipe.data, reader(recipe)
    found: set[sources.Value] = set()
    read = {
        name: Examples.write(folder / f"{name}-rows.arrow", sources.examples(place, name, data, known, found))
        for name, place in sources.named(data).items()
    }
    sources.check_where(data, found)
    task = catalog.make(recipe.settings(_labels(known, data, chain(*read.values()))))
    rows = read.pop("train")
    unique = _without_duplicates(rows, read.values())
    if not len(unique.rows):
        raise InputError(
            f"data.train: all {len(rows):,} training rows also appear in {' or '.join(read)}; name other rows"
        )
    try:
        cut = _cut(
            rows, unique.rows, data.take, recipe.training.seed, [name for name in SPLITS[1:] if name not in read], task
        )
    except InputError as error:
        raise InputError("; ".join([str(error), *_causes(recipe, rows, unique)])) from None
    for name, indices in cut.items():
        Examples.write(folder / f"{name}.arrow", (rows[index] for index in indices))
    for name in read:
        (folder / f"{name}-rows.arrow").rename(folder / f"{name}.arrow")
    (folder / "train-rows.arrow").unlink()
    if data.unlabelled is not None:
        texts = sources.unlabelled(data.unlabelled, data, task)
        labelled = chain(*(Examples(folder / f"{name}.arrow") for name in SPLITS))
        Examples.write(folder / f"{UNLABELLED}.arrow", new(texts, labelled))
    content = [files.sha256(path) for name in (*SPLITS, UNLABELLED) if (path := folder / f"{name}.arrow").exists()]
    fingerprint = hashlib.sha256(json.dumps([task.labels, content]).encode()).hexdigest()
    counts = {"duplicates": unique.duplicates, "leaked": unique.leaked, "contradicting": unique.contradicting}
    files.write_json(folder / "splits.json", {"labels": task.labels, **counts, "fingerprint": fingerprint})
    splits = load(recipe, folder)
    _check_labels(splits, data)
    return splits


def reader(recipe: Recipe) -> Task:
    """The task that reads a recipe's rows, with the labels that the recipe names, since rows may hold their indices."""
    task, names = catalog.make(recipe.settings([])), recipe.data.label_names
    return catalog.make(recipe.settings(task.indexed(names))) if names else task


def load(recipe: Recipe, folder: Path) -> Splits:
    """Load the splits that `make` has written to a folder."""
    facts = json.loads((folder / "splits.json").read_bytes())
    task = catalog.make(recipe.settings(facts.pop("labels")))
    train, validation, test = (Examples(folder / f"{name}.arrow") for name in SPLITS)
    texts = folder / f"{UNLABELLED}.arrow"
    return Splits(task, train, validation, test, Examples(texts) if texts.exists() else (), **facts)


def _labels(task: Task, data: Data, examples: Iterable[Example]) -> list[str]:
    """The labels that the recipe names, or else those found.

    Raises:
        InputError: there are too few labels to learn anything.
    """
    labels = task.name_labels(data.label_names) if data.label_names else task.find_labels(examples)
    if task.settings.problem_type == "single_label_classification" and len(labels) < 2:
        raise InputError(f"data.label: the rows kept have one label, {labels[0]!r}; a classifier needs two")
    if task.settings.problem_type == "multi_label_classification" and not labels:
        raise InputError("data.label: none of the rows kept has a label; there is nothing to learn")
    if task.settings.task == "token-classification" and len(labels) < 2:
        raise InputError("data.tags: the rows kept have no entity; there is nothing to learn")
    return labels


class _Unique(NamedTuple):
    """Training rows whose text is not in a held-out split or an earlier row, and the same counts as in `Splits`."""

    rows: Indices
    duplicates: int
    leaked: int
    contradicting: int


def _without_duplicates(train: Sequence[Example], held_out: Iterable[Sequence[Example]]) -> _Unique:
    kept: dict[bytes, int] = {}
    for example in chain.from_iterable(held_out):
        kept.setdefault(digest(example.texts), _gold(example))
    elsewhere, unique, leaked, contradicting = frozenset(kept), [], 0, 0
    for index, example in enumerate(train):
        text, gold = digest(example.texts), _gold(example)
        leaked += text in elsewhere
        if text not in kept:
            kept[text] = gold
            unique.append(index)
        contradicting += kept[text] != gold
    return _Unique(np.array(unique, np.int64), len(train) - len(unique), leaked, contradicting)


def _gold(example: Example) -> int:
    """A hash of the gold value, which may be long; valid in this process only.

    Entities and answers are hashed without whitespace, and with the text up to each offset instead of the offset:
    `digest` ignores the amount of whitespace, which shifts them.
    """
    gold, source = example.gold, example.text if example.text_pair is None else example.text_pair
    if isinstance(gold, list) and any(isinstance(one, dict) for one in gold):
        words = [
            {key: source[:value] if isinstance(value, int) else value for key, value in one.items()} for one in gold
        ]
        gold = [{key: "".join(value.split()) for key, value in one.items()} for one in words]
    return hash(json.dumps(gold, sort_keys=True))


def _causes(recipe: Recipe, rows: Sequence[Example], unique: _Unique) -> Iterator[str]:
    """The most likely reasons for too few rows."""
    if unique.duplicates:
        yield f"{unique.duplicates:,} of {len(rows):,} rows are left out as duplicates"
    if recipe.task == "text-classification" and recipe.problem_type is None:
        labels = {example.gold for example in rows}
        if len(labels) > NUMBERS and all(_is_number(label) for label in labels):
            yield f"the {len(labels):,} labels are numbers: if they are quantities, set problem_type: regression"


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def new(examples: Iterable[Example], splits: Iterable[Example]) -> Iterator[Example]:
    """Yield the examples whose texts are not in a split or an earlier example."""
    seen = {digest(example.texts) for example in splits}
    for example in examples:
        key = digest(example.texts)
        if key not in seen:
            seen.add(key)
            yield example


def digest(texts: Sequence[str | None]) -> bytes:
    """A 16-byte hash of texts: the chance that any two of 10**12 collide is about 1e-15.

    Runs of whitespace count as one space, since they make little or no difference to a tokenizer.
    """
    normalized = [None if text is None else " ".join(text.split()) for text in texts]
    return hashlib.blake2b(json.dumps(normalized).encode(), digest_size=16).digest()


def units(examples: Iterable[Example], task: Task) -> Indices | None:
    """An ID for each example's unit, which no cut may separate; None if every unit is a single example."""
    numbers: dict[bytes, int] = {}
    found = [numbers.setdefault(digest(task.unit(example)), len(numbers)) for example in examples]
    return np.array(found, np.int64) if len(numbers) < len(found) else None


def _cut(
    rows: Sequence[Example], unique: Indices, take: Take, seed: int, splits: Sequence[str], task: Task
) -> dict[str, Indices]:
    """Cut `splits`, and then the training examples, from the `unique` rows, stratified where there are strata.

    Examples of one unit stay in one split, so the sizes are then only close to those asked for.
    """
    sizes = {name: _size(getattr(take, name), len(unique)) for name in splits}
    left = len(unique) - sum(sizes.values())
    share = _training_share(take, splits)
    sizes["train"] = left if share is None else _size(share, len(unique))
    if not 1 <= sizes["train"] <= left:
        asked = ", ".join(f"{size:,} for {name}" for name, size in sizes.items())
        raise InputError(f"data.take: {len(unique):,} rows without duplicates are too few: {asked}; take less")
    strata = np.array([task.stratum(rows[index]) or "" for index in unique])
    whole = units((rows[index] for index in unique), task)
    left_over, cut = np.arange(len(unique)), {}
    for number, name in enumerate(splits):
        if whole is None:
            chosen, left_over = _drawn(left_over, strata, sizes[name], seed, name)
        else:
            after = len(splits) - number
            chosen, left_over = _drawn_whole(left_over, strata, whole, sizes[name], seed, name, after)
        cut[name] = unique[chosen]
    if share is not None and sizes["train"] < len(left_over):
        left_over = _fewer(left_over, strata, sizes["train"], seed, together=whole is not None)
    cut["train"] = unique[left_over]
    return cut


def _training_share(take: Take, splits: Sequence[str]) -> int | float | None:
    """The share of the training split; None if it gets all that remain: by default, or since fractions sum to 1.

    Each fraction is rounded, so together they may come to a row more or less than there are.
    """
    shares = [take.train, *(getattr(take, name) for name in splits)]
    fractions = [one for one in shares if isinstance(one, float)]
    return None if len(fractions) == len(shares) and isclose(sum(fractions), 1) else take.train


def _size(share: int | float, rows: int) -> int:
    return share if isinstance(share, int) else round(share * rows)


def _fewer(rows: Indices, strata: npt.NDArray[np.str_], size: int, seed: int, together: bool) -> Indices:
    """`size` of the rows: stratified where the rest has room for every label, too, and `together` is False.

    Otherwise they are drawn at random, but with a row of each label, if there is room.
    """
    if not together and _can_stratify(rows, strata, size):
        return _drawn(rows, strata, size, seed, "train")[0]
    order = np.random.default_rng(seed).permutation(rows)
    _, first = np.unique(strata[order], return_index=True)
    return np.concatenate([order[first], np.delete(order, first)])[:size]


def _can_stratify(rows: Indices, strata: npt.NDArray[np.str_], size: int) -> bool:
    """Whether `size` of the rows and the rest can both have every label in proportion."""
    counts = Counter(strata[rows].tolist())
    return min(counts.values()) >= 2 and min(size, len(rows) - size) >= len(counts)


def _drawn(rows: Indices, strata: npt.NDArray[np.str_], size: int, seed: int, name: str) -> tuple[Indices, Indices]:
    """Split rows into `size` of them, shuffled by the seed and stratified, and the rest."""
    from sklearn.model_selection import train_test_split

    rarest, count = min(Counter(strata[rows].tolist()).items(), key=lambda item: item[1])
    if not _can_stratify(rows, strata, size):
        kind = "split off with every label in proportion" if rarest else "split off"
        has = f"add rows of the rarest, {rarest!r} ({count:,})" if rarest else "add rows"
        raise InputError(
            f"data.take.{name}: {size:,} of {len(rows):,} rows cannot be {kind}: {has}, name data.{name}, or take more"
        )
    chosen, rest = train_test_split(rows, train_size=size, stratify=strata[rows] if rarest else None, random_state=seed)
    return chosen, rest


def _drawn_whole(
    rows: Indices, strata: npt.NDArray[np.str_], units: Indices, size: int, seed: int, name: str, after: int
) -> tuple[Indices, Indices]:
    """Split rows as `_drawn` does, but without separating units: into close to `size` rows, and the rest.

    At least one unit remains for each of the `after` splits that follow. Units are grouped by the strata of their rows
    and the groups interleaved, so that each is represented in proportion. Units with more than `size` rows come last,
    the smallest first.
    """
    random = np.random.default_rng(seed)
    members: dict[int, list[int]] = {unit: [] for unit in random.permutation(np.unique(units[rows])).tolist()}
    if len(members) < 2:
        raise InputError(
            f"data.take.{name}: the {len(rows):,} remaining rows have one context, which must stay in one split; add "
            f"rows with other contexts, or name data.{name}"
        )
    for row in rows.tolist():
        members[units[row]].append(row)
    kinds: dict[frozenset[str], list[list[int]]] = {}
    for unit in members.values():
        kinds.setdefault(frozenset(strata[unit].tolist()), []).append(unit)
    placed = [((number + 0.5) / len(kind), unit) for kind in kinds.values() for number, unit in enumerate(kind)]
    order = [unit for _, unit in sorted(placed, key=itemgetter(0))]
    order.sort(key=lambda unit: max(len(unit), size))
    nearest = int(np.abs(np.cumsum([len(unit) for unit in order]) - size).argmin()) + 1
    count = max(1, min(nearest, len(order) - after))
    return np.concatenate(order[:count]), np.concatenate(order[count:])


def _check_labels(splits: Splits, data: Data) -> None:
    """Reject labels without a training row.

    Raises:
        InputError: there are some; each is listed with its first held-out row, or as the recipe names it.
    """
    present = set(splits.task.find_labels(splits.train))
    missing = [label for label in splits.task.labels if label not in present]
    if missing and data.label_names:
        key = "data.labels" if data.labels else "data.label"
        raise InputError(f"{key}: no training row has the label {', '.join(map(repr, missing))}")
    if missing:
        raise InputError(*(_unlearned(label, splits, data) for label in missing))


def _unlearned(label: str, splits: Splits, data: Data) -> str:
    """The fault of a label without training rows, naming its first held-out row; named splits keep their row order."""
    advice = "give training rows of it, or leave it out"
    for split, place in sources.named(data).items():
        if split != "train":
            examples = enumerate(getattr(splits, split))
            if (index := next((i for i, one in examples if label in splits.task.find_labels([one])), None)) is not None:
                where, _ = next(islice(sources.kept(place, split, data, splits.task, set()), index, None))
                return f"{where}: no training row has the label {label!r}; {advice}"
    return f"data.train: no row that is left for training has the label {label!r}; {advice}"
