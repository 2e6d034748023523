"""Faults of the data files that a recipe names, as far as they are on this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bertline.artifacts import places, tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import COLUMNS

SPARSE = (".jsonl", ".ndjson", ".json")
"""Suffixes of data files whose rows may have different columns."""
FLAT = (".csv", ".tsv")
"""Suffixes of data files that hold only strings."""
LISTS = {
    "token-classification": "tokens, tags and entities are lists, and CSV and TSV have none; use .conll or JSON lines",
    "question-answering": "answers are a list, and CSV and TSV have none; use JSON lines or SQuAD's JSON",
}
"""Why FLAT files cannot hold the examples of a task."""


def of(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of the files that the recipe names, as far as they are on this machine."""
    data = raw.get("data", {})
    for name in ("train", "validation", "test", "unlabelled"):
        place = data.get(name)
        if place is None or (isinstance(place, str) and places.is_hub_id(place)):
            continue
        try:
            found = [(path, tables.columns(path)) for path in places.data_files(place, name)]
        except InputError as error:
            yield from (f"data.{name}: {fault}" for fault in error.faults)
            continue
        for path, columns in found:
            if tables.kind(path)[0] in FLAT and _reads_lists(raw, name, columns):
                yield f"data.{name}: {path}: {LISTS[raw['task']]}"
                continue
            for key, column in _needed(raw, name, path, columns).items():
                if column is not None and column not in columns:
                    yield f"{key}: {tables.lacking(path, [column], columns)}"


def _reads_lists(raw: dict[str, Any], name: str, columns: Sequence[str]) -> bool:
    """Whether a column that is read from a split holds lists: tokens, tags, entities or answers."""
    if name == "unlabelled":
        return raw.get("task") == "token-classification" and raw["data"].get("text", "text") not in columns
    return raw.get("task") in LISTS


def _needed(raw: dict[str, Any], name: str, path: Path, columns: Sequence[str]) -> dict[str, str | None]:
    """The columns that a file must have, by recipe key; None where a key names no column.

    For JSON only the first row's columns are known: columns that a row may lack are not required, nor are labels where
    `data.where` may leave that row out.
    """
    sparse = tables.kind(path)[0] in SPARSE
    may_lack = sparse and bool(raw["data"].get("where"))
    data, asked = raw["data"], raw.get("task", "")
    *texts, gold = COLUMNS.get(asked, (None,))
    whole = data.get("text", "text") in columns and (
        name == "unlabelled"
        or data.get("entities", "entities") in columns
        or data.get("tokens", "tokens") not in columns
    )
    if asked == "token-classification" and whole:  # whole texts, with entities marked in them
        texts, gold = ["text"], "entities"
    if asked == "question-answering" and sparse and "is_impossible" in columns:
        gold = None
    needed = {f"data.{key}": data.get(key, key) for key in texts} | {"data.text_pair": data.get("text_pair")}
    if name == "unlabelled":
        return needed
    golden = [] if gold is None or may_lack else data.get(gold, gold)
    if isinstance(golden, list):
        needed |= {f"data.{gold}.{number}": column for number, column in enumerate(golden)}
    else:
        needed[f"data.{gold}"] = golden
    needed |= {f"data.where.{column}": column for column in data.get("where", {}) if not sparse}
    groups = {"search.groups": raw.get("search", {}).get("groups")}
    return needed if name == "test" else needed | groups
