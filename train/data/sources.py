"""The examples of a recipe, streamed from files or from the hub, filtered by `data.where` and read by its task."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bertline.artifacts import files, places, tables
from bertline.artifacts.errors import InputError, one_line
from bertline.artifacts.readers.class_labels import class_names, spelled
from bertline.artifacts.recipe_schema import Data, Places
from bertline.artifacts.run import DataFiles
from bertline.tasks.task import Columns, Example, Task

UNLABELLED = "unlabelled"
Value = tuple[str, str]
"""A column and its value in a row, as a string, because CSV has only strings."""
MOST_FAULTS = 10
"""Bad rows that are reported one by one; the rest are counted."""


def named(data: Data) -> dict[str, Places]:
    """The labelled splits that a recipe names, and where their rows are."""
    given = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: place for name, place in given.items() if place is not None}


def columns(data: Data) -> Columns:
    """The columns that the recipe names."""
    return Columns(**{name: getattr(data, name) for name in Columns._fields})


def examples(place: Places, split: str, data: Data, task: Task, found: set[Value]) -> Iterator[Example]:
    """Yield the labelled example of each row that `data.where` keeps.

    Args:
        place: where the rows are.
        split: the split that they belong to.
        data: names the columns.
        task: reads the rows.
        found: receives the values of `data.where` that occur in rows.

    Raises:
        InputError: after all rows have been read: rows without a text, or with a label that is missing or unknown, each
            with file and row; or no row is kept.
    """
    known = columns(data)

    def read(where: str, row: dict[str, Any]) -> Example:
        example = task.read(row, known, where)
        return task.check(example, where) if data.label_names else example

    return _read_all(kept(place, split, data, task, found), read)


def unlabelled(place: Places, data: Data, task: Task) -> Iterator[Example]:
    """Yield each row's text as an example without a label; a hub data set is read from its `train` split.

    `data.where` filters only labelled rows.
    Raises:
        InputError: as `examples`.
    """
    known = columns(data)
    return _read_all(
        rows(place, UNLABELLED, data, task), lambda where, row: Example(*task.read_texts(row, known, where), gold=None)
    )


def _read_all(
    rows: Iterable[tuple[str, dict[str, Any]]], read: Callable[[str, dict[str, Any]], Example]
) -> Iterator[Example]:
    """Yield what `read` makes of each row; the faults of all rows that it rejects are raised together at the end."""
    faults: list[str] = []
    for where, row in rows:
        try:
            yield read(where, row)
        except InputError as error:
            faults += error.faults
    if faults:
        more = len(faults) - MOST_FAULTS
        shown = faults if more <= 0 else [*faults[:MOST_FAULTS], f"… and {more:,} more rows like these"]
        raise InputError(*shown)


def kept(place: Places, split: str, data: Data, task: Task, found: set[Value]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for each row that has, in every column of `data.where`, the value given or one of the list.

    `found` receives the values of `data.where` that occur in rows.

    Raises:
        InputError: after all rows have been read: no row has one of the columns, or no row is kept.
    """
    asked, lacking, empty = _asked(data), set(data.where), True
    row: dict[str, Any] = {}
    for where, row in rows(place, split, data, task):
        lacking -= row.keys()
        has = {(column, str(row.get(column))) for column in data.where}
        found |= has & asked.keys()
        if has <= asked.keys():
            empty = False
            yield where, row
    if lacking:
        raise InputError(f"data.where: {tables.lacking(str(place), sorted(lacking), row)}")
    if empty:
        last = {column: row.get(column) for column in data.where}
        raise InputError(f"data.where: no row of {place} matches {data.where}; the last row has {last!s:.200}")


def check_where(data: Data, found: set[Value]) -> None:
    """Reject values of `data.where` that no row has: most likely YAML has parsed them as something else.

    Raises:
        InputError: there are such values; each is listed.
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
    """Each value that `data.where` keeps, mapped to how the recipe spells it."""
    lists = {column: wanted if isinstance(wanted, list) else [wanted] for column, wanted in data.where.items()}
    return {(column, str(choice)): choice for column, choices in lists.items() for choice in choices}


def rows(place: Places, split: str, data: Data, task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for each row of a split, from the hub or from files.

    Numeric labels and tags become class names as `Task.spelling` says.
    """
    if isinstance(place, str) and places.is_hub_id(place):
        yield from hub_rows(place, split, data, task)
        return
    for path in places.data_files(place):
        yield from tables.rows(path, task.spelling(columns(data)))


def content(data: Data) -> dict[str, list[Any]]:
    """What identifies the content of all rows that a recipe names, by split.

    Raises:
        InputError: a file or hub data set does not exist.
    """
    return {name: _content(place, name) for name, place in _all_named(data).items()}


def provenance(data: Data) -> dict[str, DataFiles]:
    """The files that hold all rows that a recipe names, by split; raises as `content`."""
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


def hub_rows(place: str, split: str, data: Data, task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of the hub data set's split of the same name, as `rows` does.

    Args:
        place: hub id, optionally with :configuration and @revision. It is never a local folder: a recipe names the
            files in it.
        split: train, validation, test or unlabelled.
        data: names the columns.
        task: reads the rows, and knows the labels that the recipe names.
    """
    dataset = _hub(place, split)
    classes = class_names(dataset.features.arrow_schema, task.spelling(columns(data)))
    for number, row in enumerate(dataset, 1):
        yield f"{place} {split} row {number}", spelled(row, classes)


def _hub(place: str, split: str) -> Any:
    """Load a split of a hub data set, downloading it if needed; unlabelled texts are its `train` split.

    Raises:
        InputError: it does not exist, or the hub cannot be reached.
    """
    import datasets

    name, config, revision = places.split_hub_id(place)
    try:
        return datasets.load_dataset(name, config, split="train" if split == UNLABELLED else split, revision=revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:  # the last: it is a script
        raise InputError(f"data.{split}: {place}: {one_line(error)}") from error
