"""A row of a data file, as all readers give it, and what may be wrong with a file of any kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertline.artifacts.errors import InputError, one_line


class Attempt(NamedTuple):
    """A row, or why it could not be read."""

    where: str
    """Location of the row, as in `tables.Rows`."""
    number: int
    """Number of the row, as in `where`: the line in JSON lines, the row in a table (in CSV and TSV, the header is row
    1), the question or sentence in .json and CoNLL files."""
    row: dict[str, Any] | InputError
    line: int | None = None
    """Line on which the row begins, in CSV, TSV and JSON lines."""


def damaged(path: Path, error: Exception) -> InputError:
    """The fault of a file that its library cannot read."""
    reason = one_line(error)
    return InputError(
        f"{path}: truncated, damaged or not a {path.suffix} file ({reason}); download or make the file again"
    )


def check_names(names: Sequence[str], where: str) -> None:
    """Raise InputError if two columns have the same name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: more than one column is named {twice[0]!r}; give each a name of its own")
