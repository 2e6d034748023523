"""The examples that a recipe names, streamed from files or from the hub: the rows kept, as its task reads them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bertline.artifacts import files, places, tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Data, Places
from bertline.artifacts.run import DataFiles
from bertline.tasks.task import Columns, Example, Task

UNLABELLED = "unlabelled"
Value = tuple[str, str]
"""A column and what a row has in it, as spelled: CSV has strings only."""
MOST_FAULTS = 10
"""Bad rows that are told one by one; the rest are counted."""


def named(data: Data) -> dict[str, Places]:
    """The splits that a recipe names, and where their rows are."""
    given = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: place for name, place in given.items() if place is not None}


def columns(data: Data) -> Columns:
    """Which columns the recipe says hold what."""
    return Columns(**{name: getattr(data, name) for name in Columns._fields})


def examples(place: Places, split: str, data: Data, task: Task, found: set[Value]) -> Iterator[Example]:
    """The labelled example of each row that `data.where` keeps.

    Args:
        place: of the rows.
        split: they are of.
        data: names the columns.
        task: reads them.
        found: takes the values of `data.where` that rows have.

    Raises:
        InputError: when all rows are read: those without a text, or with a label that is missing or unknown, each with
            file and row; or no row is kept.
    """
    known = columns(data)

    def read(where: str, row: dict[str, Any]) -> Example:
        example = task.read(row, known, where)
        return task.check(example, where) if data.label_names else example

    empty = True
    for example in _read_all(kept(place, split, data, found), read):
        empty = False
        yield example
    if empty:
        raise InputError(f"data.where: no row of {place} is kept by {data.where}")


def unlabelled(place: Places, data: Data, task: Task) -> Iterator[Example]:
    """The text of each row, of a hub data set its split named `train`; `data.where` is of labelled rows alone.

    Raises:
        InputError: as `examples`.
    """
    known = columns(data)
    return _read_all(
        rows(place, UNLABELLED, data), lambda where, row: Example(*task.read_texts(row, known, where), gold=None)
    )


def _read_all(
    rows: Iterable[tuple[str, dict[str, Any]]], read: Callable[[str, dict[str, Any]], Example]
) -> Iterator[Example]:
    """Each row as `read` has it; when all are read, the faults of those that it refuses are told."""
    faults: list[str] = []
    for where, row in rows:
        try:
            yield read(where, row)
        except InputError as error:
            faults += error.faults
    if faults:
        more = len(faults) - MOST_FAULTS
        told = faults if more <= 0 else [*faults[:MOST_FAULTS], f"… and {more:,} rows more like these"]
        raise InputError(*told)


def kept(place: Places, split: str, data: Data, found: set[Value]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each row that `data.where` keeps: it has, in each column, the value asked for, or one of a list.

    `found` takes the values that rows have.

    Raises:
        InputError: at the end, no row has one of the columns.
    """
    asked, lacking = _asked(data), set(data.where)
    for where, row in rows(place, split, data):
        lacking -= row.keys()
        has = {(column, str(row.get(column))) for column in data.where}
        found |= has & asked.keys()
        if has <= asked.keys():
            yield where, row
    if lacking:
        raise InputError(f"data.where: {tables.lacking(str(place), sorted(lacking), row)}")


def check_where(data: Data, found: set[Value]) -> None:
    """Refuse values of `data.where` that no row has: most likely YAML has read them as something else.

    Raises:
        InputError: each of them.
    """
    advice = "leave it out, or quote it as the data spells it ('no', '007')"
    faults = [
        f"data.where.{value[0]}: no row has {choice!r}; {advice}"
        for value, choice in _asked(data).items()
        if value not in found
    ]
    if faults:
        raise InputError(*faults)


def _asked(data: Data) -> dict[Value, Any]:
    """Each value that `data.where` keeps, as it stands there."""
    lists = {column: wanted if isinstance(wanted, list) else [wanted] for column, wanted in data.where.items()}
    return {(column, str(choice)): choice for column, choices in lists.items() for choice in choices}


def rows(place: Places, split: str, data: Data) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each row of a split, from the hub or from files."""
    if isinstance(place, str) and places.is_hub_id(place):
        yield from hub_rows(place, split, data)
        return
    for path in places.data_files(place):
        yield from tables.rows(path)


def content(data: Data) -> dict[str, list[Any]]:
    """What tells all rows that a recipe names from any others, by split.

    Raises:
        InputError: there is no such file or hub data set.
    """
    return {name: _content(place, name) for name, place in _all_named(data).items()}


def provenance(data: Data) -> dict[str, DataFiles]:
    """The files that hold all rows that a recipe names, by split. Raises what `content` raises."""
    return {name: _files(place, name) for name, place in _all_named(data).items()}


def _all_named(data: Data) -> dict[str, Places]:
    return named(data) if data.unlabelled is None else named(data) | {UNLABELLED: data.unlabelled}


def _content(place: Places, split: str) -> list[Any]:
    """The kind and the sha256 of each file, in order."""
    if isinstance(place, str) and places.is_hub_id(place):
        dataset = _hub(place, split)
        return [str(dataset.features), *(files.sha256(Path(file["filename"])) for file in dataset.cache_files)]
    return [[*tables.kind(path), files.sha256(path)] for path in places.data_files(place)]


def _files(place: Places, split: str) -> DataFiles:
    if not (isinstance(place, str) and places.is_hub_id(place)):
        return DataFiles(files=[files.entry(path) for path in places.data_files(place)])
    paths = [Path(file["filename"]) for file in _hub(place, split).cache_files]
    revision = places.revision(paths[0].parent) if paths else None
    return DataFiles(revision=revision, files=[files.entry(path) for path in paths])


def hub_rows(place: str, split: str, data: Data) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a split, from a hub data set's of that name, labels and tags by name where the data set names them.

    Args:
        place: hub id, with :configuration and @revision where one is meant. A local folder is none in a recipe, which
            names the files in it.
        split: train, validation, test or unlabelled.
        data: names the columns; where its labels are others than the data set's own, indices are kept, to be named by
            these.
    """
    dataset = _hub(place, split)
    of_classes = [column for column in (data.label, data.tags) if isinstance(column, str)]
    named = {column: _class_names(dataset.features.get(column), data.labels) for column in of_classes}
    for number, row in enumerate(dataset, 1):
        spelled = {column: _spelled(row[column], names) for column, names in named.items() if names}
        yield f"{place} {split} row {number}", {**row, **spelled}


def _hub(place: str, split: str) -> Any:
    """A split of a hub data set, that of unlabelled texts being its `train`, downloaded where it is not here yet.

    Raises:
        InputError: there is none, or the hub cannot be reached.
    """
    import datasets

    name, config, revision = places.split_hub_id(place)
    try:
        return datasets.load_dataset(name, config, split="train" if split == UNLABELLED else split, revision=revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:  # the last: it is a script
        raise InputError(f"data.{split}: {place}: {' '.join(str(error).split())}") from error


def _class_names(feature: Any, labels: Sequence[str] | None) -> list[str] | None:
    """What a column's whole numbers stand for, if it says so and the recipe does not name them otherwise."""
    names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names if names and (labels is None or set(labels) <= set(names) or "O" in names) else None


def _spelled(value: Any, names: Sequence[str]) -> Any:
    """The name of a class, or of each in a list; None for a row without one, where hub data sets have -1 or nothing."""
    if isinstance(value, list):
        return [_spelled(each, names) for each in value]
    return names[value] if value is not None and 0 <= value < len(names) else None
