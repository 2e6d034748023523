"""CoNLL files: a token and its tag on each line, a blank line after each sentence.

The token is the first column and the tag the last; columns between them (part of speech, chunk) are ignored. Columns
are separated by tabs if the line has any, else by spaces, so that a token may hold spaces in a line with tabs. All
lines have the same number of columns, which tells CoNLL from plain text. A line before a sentence that begins with #
and has another number of columns is a comment.
"""

from collections.abc import Iterable, Iterator
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

from bertline.artifacts.errors import InputError

DOCUMENT = "-DOCSTART-"
"""Marks the beginning of a document in place of a token; it belongs to no sentence."""
PLAIN = "(plain text is read from .csv or .jsonl)"


def rows(stream: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, {"tokens": [...], "tags": [...]}) for every sentence; `where` names the line it begins on.

    Args:
        stream: the lines of the file, without a byte order mark.
        path: the file's path, for `where`.

    Raises:
        InputError: a line has no token, no tag, or a different number of columns than the first.
    """
    lines = ((number, _fields(line)) for number, line in enumerate(stream, start=1))
    first = None
    for inside, group in groupby(lines, lambda line: bool(line[1]) and line[1][0] != DOCUMENT):
        if inside:
            sentence = _without_comments(list(group))
            first = first or sentence[0]
            for number, fields in sentence:
                if fault := _fault(fields, *first):
                    raise InputError(f"{path} line {number}: {fault}")
            columns = {"tokens": [fields[0] for _, fields in sentence], "tags": [fields[-1] for _, fields in sentence]}
            yield f"{path} line {sentence[0][0]}", columns


def _without_comments(sentence: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The lines of a sentence without those before it that begin with # and have other columns than its last line."""
    columns = len(sentence[-1][1])
    return list(dropwhile(lambda line: line[1][0].startswith("#") and len(line[1]) != columns, sentence))


def _fault(fields: list[str], begin: int, first: list[str]) -> str | None:
    """What is wrong with the columns of a line, given the first line and its number; None if nothing is."""
    if len(fields) < 2 or not (fields[0] and fields[-1]):
        expected = f"a token, a tab or space, and its tag are expected {PLAIN}"
        return f"no {'tag' if fields[0] else 'token'}; {expected}"
    if len(fields) != len(first):
        found = f"{len(fields)} columns where line {begin} has {len(first)}"
        return f"{found}; all lines need the same number {PLAIN}"
    return None


def _fields(line: str) -> list[str]:
    """The columns of a line; none for a blank line."""
    if not line.strip():
        return []
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    return [field for field in line.rstrip("\r\n").split(" ") if field]
