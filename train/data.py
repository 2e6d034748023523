"""The examples of a run: read, filtered, named, freed of duplicates, and cut into training, validation and test.

Every rank reads the same files and comes to the same splits: they are a function of data, recipe and seed alone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertline.artifacts import files, places, tables
from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe import Recipe
from bertline.artifacts.run import RunFolder
from bertline.tasks import catalog
from bertline.tasks.task import Columns, Example, Task

MOST_FAULTS = 10
"""Bad rows that are told one by one; the rest are counted."""


@dataclass(frozen=True)
class Splits:
    """What a run learns from and what it is held against."""

    task: Task
    """With the labels found, or named by the recipe."""
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: int
    """Training rows left out because their text stands elsewhere in the data."""
    leaked: int
    """Those of them whose text stands in a held-out split that the recipe names."""

    def counts(self) -> dict[str, int]:
        """Examples in each split."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    def fingerprint(self) -> str:
        """The sha256 of all examples in order: a run resumes only on the data it began with."""
        everything = [self.task.labels, self.train, self.validation, self.test]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()

    def save(self, run: RunFolder) -> None:
        """Write the held-out examples into the run."""
        for path, examples in ((run.split("validation"), self.validation), (run.split("test"), self.test)):
            lines = (json.dumps(self.task.row(example), ensure_ascii=False) + "\n" for example in examples)
            files.write_text(path, "".join(lines))


def load(recipe: Recipe) -> Splits:
    """Read and cut the examples that a recipe names.

    Raises:
        InputError: rows without a text or with a label that is missing or unknown, each with file and row; a label
            without enough rows; fewer rows than the splits need.
    """
    data, seed = recipe.data, recipe.training.seed
    reader = catalog.make(recipe.settings([]))
    named = {name: list(_read(place, name, data, reader)) for name, place in _places(data).items()}
    task = catalog.make(recipe.settings(_labels(reader, data, [row for rows in named.values() for _, row in rows])))
    checked = {name: _checked(rows, task) for name, rows in named.items()}
    rows = checked.pop("train")
    train, leaked = _without_duplicates(rows, checked.values())
    cut = _cut(train, data.take, seed, [name for name in ("validation", "test") if name not in checked], task)
    splits = {**checked, **cut}
    _check_labels(splits["train"], task)
    return Splits(task, splits["train"], splits["validation"], splits["test"], len(rows) - len(train), leaked)


def _labels(reader: Task, data: recipes.Data, examples: Sequence[Example]) -> list[str]:
    """Those that the recipe names, else those found.

    Raises:
        InputError: there is nothing to tell apart.
    """
    labels = reader.name_labels(data.labels) if data.labels else reader.find_labels(examples)
    if reader.settings.problem_type == "single_label_classification" and len(labels) < 2:
        raise InputError(f"data.label: the rows kept have one label, {labels[0]!r}; a classifier needs two")
    if reader.settings.task == "token-classification" and len(labels) < 2:
        raise InputError("data.tags: the rows kept have no entity; there is nothing to learn")
    return labels


def _places(data: recipes.Data) -> dict[str, recipes.Places]:
    given = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: place for name, place in given.items() if place is not None}


def columns(data: recipes.Data) -> Columns:
    """Which columns the recipe says hold what."""
    return Columns(**{name: getattr(data, name) for name in Columns._fields})


def _read(place: recipes.Places, split: str, data: recipes.Data, reader: Task) -> Iterator[tuple[str, Example]]:
    """(where, example) for each row that `data.where` keeps."""
    named = columns(data)
    faults: list[str] = []
    empty = True
    for where, row in rows(place, split, data):
        if not _kept(row, data.where):
            continue
        empty = False
        try:
            yield where, reader.read(row, named, where)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*_shortened(faults))
    if empty:
        raise InputError(f"data.where: no row of {place} is kept by {data.where}")


def rows(place: recipes.Places, split: str, data: recipes.Data) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each row of a split, from the hub or from files."""
    if isinstance(place, str) and places.is_hub_id(place):
        yield from hub_rows(place, split, data)
        return
    for path in places.data_files(place):
        yield from tables.rows(path)


def hub_rows(place: str, split: str, data: recipes.Data) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a hub data set's split of that name, labels and tags by name where the data set names them.

    Args:
        place: hub id, with :configuration and @revision where one is meant; a local folder that `datasets` reads does
            as well.
        split: train, validation or test.
        data: names the columns; where its labels are others than the data set's own, indices are kept, to be named by
            these.
    """
    import datasets

    name, config, revision = places.split_hub_id(place)
    try:
        dataset = datasets.load_dataset(name, config, split=split, revision=revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise InputError(f"data.{split}: {place}: {' '.join(str(error).split())}") from error
    named = {column: _class_names(dataset.features.get(column), data.labels) for column in (data.label, data.tags)}
    for number, row in enumerate(dataset, 1):
        spelled = {column: _spelled(row[column], names) for column, names in named.items() if names}
        yield f"{place} {split} row {number}", {**row, **spelled}


def _class_names(feature: Any, labels: Sequence[str] | None) -> list[str] | None:
    """What a column's whole numbers stand for, if it says so and the recipe does not name them otherwise."""
    names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names if names and (labels is None or set(labels) <= set(names) or "O" in names) else None


def _spelled(value: Any, names: Sequence[str]) -> Any:
    return [names[index] for index in value] if isinstance(value, list) else names[value]


def _kept(row: dict[str, Any], where: dict[str, Any]) -> bool:
    """Whether each column has the value asked for, or one of a list, compared as spelled: CSV has strings only."""
    for column, wanted in where.items():
        choices = wanted if isinstance(wanted, list) else [wanted]
        if str(row.get(column)) not in {str(choice) for choice in choices}:
            return False
    return True


def _checked(rows: Iterable[tuple[str, Example]], task: Task) -> list[Example]:
    examples: list[Example] = []
    faults: list[str] = []
    for where, example in rows:
        try:
            examples.append(task.check(example, where))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*_shortened(faults))
    return examples


def _shortened(faults: list[str]) -> list[str]:
    more = len(faults) - MOST_FAULTS
    return faults if more <= 0 else [*faults[:MOST_FAULTS], f"… and {more:,} rows more like these"]


def _without_duplicates(train: list[Example], held_out: Iterable[list[Example]]) -> tuple[list[Example], int]:
    """Training rows whose text stands neither in a held-out split nor earlier, and how many stand in a held-out one."""
    elsewhere = {example.texts for examples in held_out for example in examples}
    seen = set(elsewhere)
    unique = []
    for example in train:
        if example.texts not in seen:
            seen.add(example.texts)
            unique.append(example)
    return unique, sum(example.texts in elsewhere for example in train)


def _cut(
    rows: list[Example], take: recipes.Take, seed: int, splits: Sequence[str], task: Task
) -> dict[str, list[Example]]:
    """Cut `splits` and then the training examples from `rows`, each stratified where the task has strata."""
    sizes = {name: _size(getattr(take, name), len(rows)) for name in splits}
    left = len(rows) - sum(sizes.values())
    sizes["train"] = left if take.train is None else _size(take.train, len(rows))
    if sizes["train"] > left or left < 1:
        asked = ", ".join(f"{size:,} for {name}" for name, size in sizes.items())
        raise InputError(f"data.take: {len(rows):,} rows without duplicates are too few: {asked}; take less")
    cut = {}
    for name, size in sizes.items():
        cut[name], rows = _drawn(rows, size, seed, name, task)
    return cut


def _size(share: int | float, rows: int) -> int:
    return share if isinstance(share, int) else round(share * rows)


def _drawn(rows: list[Example], size: int, seed: int, name: str, task: Task) -> tuple[list[Example], list[Example]]:
    """`size` examples, shuffled by the seed, with the strata in their proportion, and the rest."""
    from sklearn.model_selection import train_test_split

    if size == len(rows):
        return rows, []
    strata = [task.stratum(example) for example in rows]
    counts = Counter(strata)
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < 2 or min(size, len(rows) - size) < len(counts):
        kind = "cut" if rarest is None else "cut with every label in proportion"
        raise InputError(
            f"data.take.{name}: {size:,} of {len(rows):,} rows cannot be {kind}: "
            f"{'all' if rarest is None else repr(rarest)} has {count:,}; give more rows of it, name data.{name}, or "
            "take more"
        )
    chosen, rest = train_test_split(
        rows, train_size=size, stratify=None if rarest is None else strata, random_state=seed
    )
    return chosen, rest


def _check_labels(train: list[Example], task: Task) -> None:
    present = set(task.find_labels(train))
    missing = [label for label in task.labels if label not in present]
    if missing:
        raise InputError(f"data.labels: no training row has the label {', '.join(map(repr, missing))}")
