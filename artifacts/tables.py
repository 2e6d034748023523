"""Stream the rows of a data file, each with its location; text files may be compressed (.gz, .bz2, .xz, .zst).

Values are kept as they are in the file: CSV and TSV give only strings ("NA" and "007" included), and no types are
guessed. The suffix tells the kind of a file, in any case. Memory use is constant, except for .json, which is one value.
"""

import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

from bertline.artifacts.errors import InputError
from bertline.artifacts.readers import arrow, conll, delimited, json_lines, squad
from bertline.artifacts.readers.arrow import Choose
from bertline.artifacts.readers.attempt import Attempt, damaged
from bertline.artifacts.readers.class_labels import Spell
from bertline.artifacts.readers.text import COMPRESSED, decoded, lines, refuse

Rows = Iterator[tuple[str, dict[str, Any]]]
"""Pairs (where, row); `where` names the file and the row or line, counted from 1."""


def rows(path: Path, spell: Spell = lambda column, names: True) -> Rows:
    """Yield (where, row) for every row of `path`.

    Args:
        path: the file.
        spell: in which columns integers are replaced by names, where a Parquet or Arrow file has names for them as
            `datasets` writes them.

    Raises:
        InputError: the file is missing, empty, damaged, of an unknown kind or not UTF-8, or a row is malformed.
    """
    with opened(path) as raw:
        for attempt in attempts(path, raw, spell=spell):
            if isinstance(attempt.row, InputError):
                raise attempt.row
            yield attempt.where, attempt.row


def attempts(
    path: Path,
    raw: BufferedReader,
    choose: Choose = lambda names: names,
    spell: Spell = lambda column, names: True,
) -> Iterator[Attempt]:
    """Yield every row of `path` or, for a bad row, what is wrong with it.

    Args:
        path: the file.
        raw: its stream, from `opened`, whose position shows the progress. It is closed at the end.
        choose: which columns of a Parquet or Arrow file to read; others may be large or hold no text.
        spell: see `rows`.

    Raises:
        InputError: the file is empty, damaged or of an unknown kind, so that no further row can be read. A bad row of a
            .json or CoNLL file counts as damage, as does one of a CSV or TSV file that takes several lines.
    """
    empty = True
    try:
        for attempt in arrow.read(path, raw, choose, spell) if kind(path)[0] in BINARIES else _text_rows(path, raw):
            empty = False
            yield attempt
    except OSError as error:
        raise (InputError(f"{path}: {error.strerror}") if error.strerror else damaged(path, error)) from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise damaged(path, error) from None
    if empty:
        raise InputError(f"{path}: empty, it has no rows")


def opened(path: Path) -> BufferedReader:
    """Open a data file as a stream of bytes.

    Raises:
        InputError: the file is missing or of an unknown kind.
    """
    suffix, compression = kind(path)
    if suffix not in KINDS:
        known = f"data is read from {', '.join(KINDS)}, texts also with {', '.join(COMPRESSED)}"
        raise InputError(f"{path}: unknown kind of file {suffix!r}; {known}")
    if compression and suffix in BINARIES:
        name = suffix[1:].capitalize()
        raise InputError(f"{path}: {name} is compressed inside, {compression} is not read; decompress the file")
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def columns(path: Path) -> list[str]:
    """The columns of the first row (for CSV and TSV, the header).

    Raises:
        InputError: see `rows`.
    """
    return list(next(rows(path))[1])


def lacking(path: Path | str, missing: Sequence[str], columns: Iterable[str]) -> str:
    """The message for a file that lacks required columns."""
    return f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(columns)}"


def count(path: Path) -> int | None:
    """The number of rows in a Parquet file, from its metadata; None for other kinds of file."""
    if kind(path)[0] != ".parquet":
        return None
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return None
    try:
        return int(parquet.read_metadata(path).num_rows)
    except (OSError, ArrowException):
        return None


def kind(path: Path) -> tuple[str, str]:
    """The suffixes of a file's kind and of its compression, in lower case: (".csv", ".gz"), (".csv", "")."""
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    return (inner, outer) if outer in COMPRESSED else (outer, "")


def _text_rows(path: Path, raw: BufferedReader) -> Iterator[Attempt]:
    suffix, compression = kind(path)
    newline = "" if suffix in (".csv", ".tsv") else None  # a quoted field keeps its line endings
    with decoded(path, raw, compression, newline) as stream:
        yield from TEXTS[suffix](stream, path)


def _whole(read: Callable[[Iterable[str], Path], Rows]) -> Callable[[TextIO, Path], Iterator[Attempt]]:
    """A reader of files in which one bad line or row makes all others doubtful."""

    def attempts(stream: TextIO, path: Path) -> Iterator[Attempt]:
        found = read(lines(stream, path, refuse), path)
        return (Attempt(where, number, row) for number, (where, row) in enumerate(found, start=1))

    return attempts


CONLL = (".conll", ".iob", ".bio", ".txt")
TEXTS: dict[str, Callable[[TextIO, Path], Iterator[Attempt]]] = {
    ".csv": partial(delimited.read, delimiter=","),
    ".tsv": partial(delimited.read, delimiter="\t"),
    ".jsonl": json_lines.read,
    ".ndjson": json_lines.read,
    ".json": _whole(squad.rows),
    **dict.fromkeys(CONLL, _whole(conll.rows)),
}
"""Readers of text files, by suffix."""
BINARIES = (*arrow.BATCHES,)
KINDS = (*TEXTS, *BINARIES)
"""Suffixes of all kinds of data file."""
