"""CoNLL files: a token and its tag on each line, a blank line after each sentence.

The token is the first column and the tag the last; columns between them (part of speech, chunk) are left out. Columns
are separated by tabs where a line has any, else by spaces, so that a token may hold spaces in a line with tabs. All
lines have as many, by which plain text is told from CoNLL.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from bertline.artifacts.errors import InputError

DOCUMENT = "-DOCSTART-"
"""Stands in place of a token where a document begins; neither a word nor of a sentence."""
PLAIN = "(plain text is read from .csv or .jsonl)"


def rows(stream: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, {"tokens": [...], "tags": [...]}) for every sentence; `where` names the line it begins on.

    Args:
        stream: the lines of the file, without byte order mark.
        path: of the file, for `where`.

    Raises:
        InputError: a line has no token or no tag, or other columns than the first.
    """
    lines = ((number, _fields(line)) for number, line in enumerate(stream, start=1))
    first = None
    for inside, group in groupby(lines, lambda line: bool(line[1]) and line[1][0] != DOCUMENT):
        if inside:
            sentence = list(group)
            first = first or sentence[0]
            for number, fields in sentence:
                if fault := _fault(fields, *first):
                    raise InputError(f"{path} line {number}: {fault}")
            columns = {"tokens": [fields[0] for _, fields in sentence], "tags": [fields[-1] for _, fields in sentence]}
            yield f"{path} line {sentence[0][0]}", columns


def _fault(fields: list[str], begin: int, first: list[str]) -> str | None:
    """What is wrong with the columns of a line, which are as many as those of the first line, if anything is."""
    if len(fields) < 2 or not (fields[0] and fields[-1]):
        expected = f"a token, a tab or space, and its tag are expected {PLAIN}"
        return f"no {'tag' if fields[0] else 'token'}; {expected}"
    if len(fields) != len(first):
        found = f"{len(fields)} columns where line {begin} has {len(first)}"
        return f"{found}; all have as many {PLAIN}"
    return None


def _fields(line: str) -> list[str]:
    """The columns of a line, none of a blank one."""
    if not line.strip():
        return []
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    return [field for field in line.rstrip("\r\n").split(" ") if field]
