"""The examples of a run: read, filtered, named, freed of duplicates, and cut into training, validation and test.

Every rank reads the same files and comes to the same splits: they are a function of data, recipe and seed alone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertline.artifacts import files, places, recipe, tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder
from bertline.tasks import text_classification
from bertline.tasks.text_classification import Columns, Example

MOST_FAULTS = 10
"""Bad rows that are told one by one; the rest are counted."""


@dataclass(frozen=True)
class Splits:
    """What a run learns from and what it is held against; labels are names."""

    labels: list[str]
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: int
    """Training rows left out because their text stands elsewhere in the data."""

    def counts(self) -> dict[str, int]:
        """Examples in each split."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    def fingerprint(self) -> str:
        """The sha256 of all examples in order: a run resumes only on the data it began with."""
        return hashlib.sha256(json.dumps([self.labels, self.train, self.validation, self.test]).encode()).hexdigest()

    def save(self, run: RunFolder) -> None:
        """Write the held-out examples into the run."""
        for path, examples in ((run.split("validation"), self.validation), (run.split("test"), self.test)):
            lines = (json.dumps(example.row(), ensure_ascii=False) + "\n" for example in examples)
            files.write_text(path, "".join(lines))


def load(data: recipe.Data, seed: int) -> Splits:
    """Read and cut the examples that a recipe names.

    Raises:
        InputError: rows without a text or with a label that is missing or unknown, each with file and row; a label
            without enough rows; fewer rows than the splits need.
    """
    named = {name: list(_read(place, name, data)) for name, place in _places(data).items()}
    labels = data.labels or sorted({example.label for rows in named.values() for _, example in rows})
    if len(labels) < 2:
        raise InputError(f"data.label: the rows kept have one label, {labels[0]!r}; a classifier needs two")
    named_splits = {name: _name_labels(rows, labels) for name, rows in named.items()}
    train, duplicates = _without_duplicates(named_splits.pop("train"), named_splits.values())
    cut = _cut(train, data.take, seed, [name for name in ("validation", "test") if name not in named_splits])
    splits = {**named_splits, **cut}
    _check_labels(splits["train"], labels)
    return Splits(labels, splits["train"], splits["validation"], splits["test"], duplicates)


def _places(data: recipe.Data) -> dict[str, recipe.Places]:
    given = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: place for name, place in given.items() if place is not None}


def _read(place: recipe.Places, split: str, data: recipe.Data) -> Iterator[tuple[str, Example]]:
    """(where, example) for each row that `data.where` keeps."""
    columns = Columns(data.text, data.text_pair, data.label)
    faults: list[str] = []
    empty = True
    for where, row in _rows(place, split, data):
        if not _kept(row, data.where):
            continue
        empty = False
        try:
            yield where, text_classification.read(row, columns, where)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*_shortened(faults))
    if empty:
        raise InputError(f"data.where: no row of {place} is kept by {data.where}")


def _rows(place: recipe.Places, split: str, data: recipe.Data) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(place, str) and places.is_hub_id(place):
        yield from hub_rows(place, split, data.label, data.labels)
        return
    for path in places.data_files(place):
        yield from tables.rows(path)


def hub_rows(place: str, split: str, label: str, labels: Sequence[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a hub data set's split of that name, labels by name where the data set names them.

    Args:
        place: hub id, with @revision where one is meant; a local folder that `datasets` reads does as well.
        split: train, validation or test.
        label: column of the label.
        labels: the recipe's names; where the data set's own are others, its indices are kept, to be named by these.
    """
    import datasets

    name, _, revision = place.partition("@")
    try:
        dataset = datasets.load_dataset(name, split=split, revision=revision or None)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise InputError(f"data.{split}: {place}: {' '.join(str(error).split())}") from error
    names = getattr(dataset.features.get(label), "names", None)
    if names is not None and (labels is None or set(labels) == set(names)):
        dataset = dataset.cast_column(label, datasets.Value("int64"))
        return ((f"{place} {split} row {i}", {**row, label: names[row[label]]}) for i, row in enumerate(dataset, 1))
    return ((f"{place} {split} row {i}", dict(row)) for i, row in enumerate(dataset, 1))


def _kept(row: dict[str, Any], where: dict[str, Any]) -> bool:
    """Whether each column has the value asked for, or one of a list, compared as spelled: CSV has strings only."""
    for column, wanted in where.items():
        choices = wanted if isinstance(wanted, list) else [wanted]
        if str(row.get(column)) not in {str(choice) for choice in choices}:
            return False
    return True


def _name_labels(rows: Iterable[tuple[str, Example]], labels: Sequence[str]) -> list[Example]:
    examples: list[Example] = []
    faults: list[str] = []
    for where, example in rows:
        try:
            examples.append(text_classification.named(example, labels, where))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*_shortened(faults))
    return examples


def _shortened(faults: list[str]) -> list[str]:
    more = len(faults) - MOST_FAULTS
    return faults if more <= 0 else [*faults[:MOST_FAULTS], f"… and {more:,} rows more like these"]


def _without_duplicates(train: list[Example], held_out: Iterable[list[Example]]) -> tuple[list[Example], int]:
    """Training rows whose text stands neither in a held-out split nor earlier, and how many were left out."""
    seen = {example.texts for examples in held_out for example in examples}
    unique = []
    for example in train:
        if example.texts not in seen:
            seen.add(example.texts)
            unique.append(example)
    return unique, len(train) - len(unique)


def _cut(rows: list[Example], take: recipe.Take, seed: int, splits: Sequence[str]) -> dict[str, list[Example]]:
    """Cut `splits` and then the training examples from `rows`, each stratified by label."""
    sizes = {name: _size(getattr(take, name), len(rows)) for name in splits}
    left = len(rows) - sum(sizes.values())
    sizes["train"] = left if take.train is None else _size(take.train, len(rows))
    if sizes["train"] > left or left < 1:
        asked = ", ".join(f"{size:,} for {name}" for name, size in sizes.items())
        raise InputError(f"data.take: {len(rows):,} rows without duplicates are too few: {asked}; take less")
    cut = {}
    for name, size in sizes.items():
        cut[name], rows = _stratified(rows, size, seed, name)
    return cut


def _size(share: int | float, rows: int) -> int:
    return share if isinstance(share, int) else round(share * rows)


def _stratified(rows: list[Example], size: int, seed: int, name: str) -> tuple[list[Example], list[Example]]:
    """`size` examples with the labels in their proportion, shuffled by the seed, and the rest."""
    from sklearn.model_selection import train_test_split

    if size == len(rows):
        return rows, []
    counts = Counter(example.label for example in rows)
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < 2 or min(size, len(rows) - size) < len(counts):
        raise InputError(
            f"data.take.{name}: {size:,} of {len(rows):,} rows cannot be cut with every label in proportion: "
            f"{rarest!r} has {count:,}; give more rows of it, name data.{name}, or take more"
        )
    labels = [example.label for example in rows]
    chosen, rest = train_test_split(rows, train_size=size, stratify=labels, random_state=seed)
    return chosen, rest


def _check_labels(train: list[Example], labels: Sequence[str]) -> None:
    present = {example.label for example in train}
    missing = [label for label in labels if label not in present]
    if missing:
        raise InputError(f"data.labels: no training row has the label {', '.join(map(repr, missing))}")
