"""How labels are spelled in rows and recipes: names, indices, lists, columns of 0 and 1, and numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from bertline.artifacts.errors import InputError
from bertline.tasks.tokens import refuse_lone_surrogates

NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
"""A label that is a number, so that 1 may be a name or an index."""
ONE, ZERO = ("1", "1.0", "true"), ("0", "0.0", "false")
"""Spellings of whether a row has a label, where each label has a column."""


def sort_labels(names: Iterable[str]) -> list[str]:
    """Labels in default order: by value if all are numbers, else as strings."""
    names = sorted(names)
    return sorted(names, key=float) if all(map(NUMBER.fullmatch, names)) else names


def read_label(gold: Any, where: str) -> str:
    """The label in a string, an integer or a bool: its spelling.

    Raises:
        InputError: it is something else; the message starts with `where`.
    """
    if not isinstance(gold, (str, int)):
        meant = "for a measured number set problem_type: regression"
        if isinstance(gold, list):
            meant = "for several labels set problem_type: multi_label_classification (of a model, in its config.json)"
        elif isinstance(gold, float) and gold.is_integer():  # as pandas writes integers if some are missing
            meant = f"write {gold:.0f} if it names a label"
        advice = f"a name or an integer is expected; {meant}"
        raise InputError(f"{where}: label {gold!r:.60} is a {type(gold).__name__}; {advice}")
    refuse_lone_surrogates(str(gold), f"{where}: the label")
    return str(gold)


def read_labels(gold: Any, known: Sequence[str], where: str) -> list[str]:
    """Any number of labels: in a list, in a string with commas between, or as a 0 or 1 for each of `known`.

    A 0 or 1 stands by itself if only one label is known.

    Args:
        gold: the value of a row.
        known: all labels; empty if they are still to be found.
        where: the row.

    Raises:
        InputError: it is something else, or a 0 and 1 that may also be indices; the message starts with `where`.
    """
    if _is_yes_or_no(gold, known):
        return [*known] if _is_one(gold, where) else []
    if _is_vector(gold, len(known)):
        gold = [name for name, right in zip(known, gold, strict=True) if right]
    names = _names(gold, where)
    numbers = [name for name in names if name.isdecimal() and name not in known]
    if known and isinstance(gold, str) and numbers:
        advice = "spell labels by their names, with commas between: a number may be an index, or a yes or no"
        raise InputError(f"{where}: labels {gold!r:.60}: no label is called {numbers[0]}; {advice}")
    return names


def read_columns(row: Mapping[str, Any], labels: Sequence[str], where: str) -> list[str]:
    """Any number of labels, each with a column that holds 1 or 0, true or false.

    Raises:
        InputError: a column holds something else, or is missing; the message starts with `where`.
    """
    return [label for label in labels if _is_one(row.get(label), f"{where}: column {label!r}")]


def read_number(gold: Any, where: str) -> float:
    """The number to predict in a regression.

    Raises:
        InputError: there is none; the message starts with `where`.
    """
    try:
        number = float("nan" if isinstance(gold, bool) or "_" in str(gold) else gold)  # Python reads 1_0 as 10
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number):
        raise InputError(f"{where}: label {gold!r:.60} is no number, which regression needs")
    return number


def find_label(name: str, labels: Sequence[str], where: str) -> str:
    """The label given by name, in any case if one alone fits, or by index if no label is a number.

    Raises:
        InputError: there is no such label; the message starts with `where`.
    """
    if name in labels:
        return name
    alike = [label for label in labels if label.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    known = ", ".join(labels)
    if any(NUMBER.fullmatch(label) for label in labels):
        advice = "as labels are numbers, an index would be ambiguous: spell it as one, or name them by words"
        raise InputError(f"{where}: unknown label {name!r}; known are {known}; {advice}")
    index = {"False": "0", "True": "1"}.get(name, name) if len(labels) == 2 else name
    if index.isdecimal() and int(index) < len(labels):
        return labels[int(index)]
    raise InputError(f"{where}: unknown label {name!r}; known are {known}, or 0 to {len(labels) - 1}")


def _is_yes_or_no(gold: Any, known: Sequence[str]) -> bool:
    """Whether it says if a text has the only known label: a 0 or 1, true or false."""
    only = len(known) == 1 and known[0].lower() not in (*ONE, *ZERO)
    return only and str(gold).strip().lower() in (*ONE, *ZERO)


def _is_vector(gold: Any, known: int) -> bool:
    """Whether it is a 0 or 1 for each of three or more labels, which no list of distinct indices can look like."""
    return isinstance(gold, list) and len(gold) == known > 2 and all(one in (0, 1) for one in gold)


def _names(gold: Any, where: str) -> list[str]:
    if isinstance(gold, str):
        if gold.strip().startswith("[") and gold.strip().endswith("]"):
            advice = "separate the names by commas, or use JSON lines, which have lists"
            raise InputError(f"{where}: labels {gold!r:.60}: a list, written as text; {advice}")
        gold = [part.strip() for part in gold.split(",") if part.strip()]
    if not isinstance(gold, list):
        raise InputError(f"{where}: labels {gold!r:.60}: a list of names, or names separated by commas, is expected")
    names = {read_label(each, where) for each in gold}
    if len(names) < len(gold) and names <= {"0", "1", "False", "True"}:  # as indices they would mean other labels
        advice = "name its labels, three or more, in data.labels, or give a list of names or indices"
        raise InputError(f"{where}: labels {gold!r:.60}: a vector of 0 and 1; {advice}")
    return sorted(names)


def _is_one(value: Any, where: str) -> bool:
    spelled = str(value).strip().lower()
    if spelled not in ONE and spelled not in ZERO:
        raise InputError(f"{where}: found {value!r:.60}; the column of a label holds 1 or 0, true or false")
    return spelled in ONE
