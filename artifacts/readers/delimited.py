"""CSV and TSV: a header, then rows with as many fields; a quoted field may hold delimiters and line ends."""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from bertline.artifacts.errors import InputError
from bertline.artifacts.readers.attempt import Attempt, check_names
from bertline.artifacts.readers.text import lines

LONGEST_FIELD = 1 << 27
"""Maximum length of a CSV field in characters; Python's own limit of 131,072 is shorter than a long document."""
_BARE = re.compile(r'("?)[\w.-]*\1')
"""A column name, quoted or not, without the blanks and punctuation of a sentence."""
SUFFIXES = {",": ".csv", "\t": ".tsv"}
"""Suffix of the files with each delimiter."""


def read(stream: TextIO, path: Path, delimiter: str) -> Iterator[Attempt]:
    """Yield every row, or what is wrong with it.

    Raises:
        InputError: the header is malformed, or a bad row takes several lines.
    """
    top = stream.readline()
    _check_delimiter(top, path, delimiter)
    records = _records(chain([top] if top else [], stream), path, delimiter)
    first = next(records, None)
    if first is None:
        return
    _, _, header = first
    if isinstance(header, InputError):
        raise header
    if not any(name.strip() for name in header):
        raise InputError(f"{path} row 1: blank; the first row names the columns")
    check_names(header, f"{path} row 1")
    for number, (line, last, fields) in enumerate(records, start=2):
        where = f"{path} row {number}"
        row: dict[str, Any] | InputError
        if isinstance(fields, InputError):
            row = fields
        elif not fields:  # a blank line is no row
            continue
        elif len(fields) != len(header):
            found = f"{len(fields)} fields where the header has {len(header)}"
            advice = f"quote a field that holds a {'comma' if delimiter == ',' else 'tab'} or a line end"
            row = InputError(f"{where}: {found} ({_lines_of(line, last)}); {advice}")
        elif delimiter == "\t" and any(map(_swallows, fields)):
            found = f"a quoted field ({_lines_of(line, last)}) holds a tab and a line end, as if it had swallowed rows"
            advice = 'a text that begins with a quote is quoted itself: """so"" he said"; what holds both is for CSV'
            row = InputError(f"{where}: {found}; {advice}")
        else:
            row = dict(zip(header, fields, strict=True))
        if isinstance(row, InputError) and last > line:  # a stray quote may have swallowed good rows, for pages
            raise row
        yield Attempt(where, number, row, line)


def _lines_of(line: int, last: int) -> str:
    return f"line {line}" if line == last else f"lines {line} to {last}"


def _check_delimiter(top: str, path: Path, delimiter: str) -> None:
    """Reject a table with another delimiter: otherwise every row with a quote in it would be reported as faulty.

    The name of a single column may hold such a character too, so each part must look like a name.
    """
    other = next((other for other in ",\t;|" if other in top), None)
    if other is None or delimiter in top:
        return
    if not all(map(_BARE.fullmatch, top.rstrip("\r\n").split(other))):
        return
    if named := SUFFIXES.get(other):
        advice = f"name the file {named}"
    else:
        read = f"pandas.read_csv({path.name!r}, sep={other!r}, dtype=str, keep_default_na=False)"
        advice = f"make another: {read}.to_csv(FILE, index=False)"
    by = "commas" if delimiter == "," else "tabs"
    raise InputError(
        f"{path} row 1: fields are separated by {other!r}, and {SUFFIXES[delimiter]} is read by {by}; {advice}"
    )


def _swallows(field: str) -> bool:
    """Whether a field of a TSV file seems to contain rows, because a text begins with an unescaped quote."""
    return "\t" in field and ("\n" in field or "\r" in field)


def _records(stream: Iterable[str], path: Path, delimiter: str) -> Iterator[tuple[int, int, list[str] | InputError]]:
    """Yield, for each record, the lines on which it begins and ends, and its fields or what is wrong with them."""
    csv.field_size_limit(LONGEST_FIELD)
    faults: list[InputError] = []
    reader = csv.reader(lines(stream, path, faults.append), delimiter=delimiter, strict=True)
    while True:
        begin = reader.line_num + 1
        found: list[str] | InputError | None
        try:
            found = next(reader, None)
        except csv.Error as error:  # the reader continues with the next line
            advice = 'a field with quotes in it is quoted itself, and those are doubled: "say ""so"""'
            ends = "" if reader.line_num == begin else f" and ends on line {reader.line_num}"
            found = InputError(f"{path} line {begin}: {error} in the row that begins here{ends}; {advice}")
        if faults:
            found = faults[0]
            faults.clear()
        if found is None:
            return
        yield begin, reader.line_num, found
