"""Parquet and Arrow files: rows in batches, with all types that Python has."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bertline.artifacts.errors import InputError, install_advice
from bertline.artifacts.readers.attempt import Attempt, check_names, damaged
from bertline.artifacts.readers.class_labels import Spell, class_names, spelled

BATCH = 1024
"""Number of rows of a Parquet or Arrow file that are converted to Python values at once."""
Choose = Callable[[Sequence[str]], Collection[str]]
"""Chooses, from the columns of a file, the ones to read."""


def read(path: Path, raw: BinaryIO, choose: Choose, spell: Spell) -> Iterator[Attempt]:
    """Yield every row, or what is wrong with it.

    Raises:
        InputError: the file is damaged, a column's name is not unique, or pyarrow is missing.
    """
    suffix = path.suffix.lower()
    try:
        import pyarrow as pa
    except ImportError:
        name = suffix[1:].capitalize()
        raise InputError(f"{path}: reading {name} needs pyarrow; {install_advice('parquet')}") from None
    try:
        for number, row in enumerate(_all_values(BATCHES[suffix](raw, path, choose), spell), start=1):
            where = f"{path} row {number}"
            if isinstance(row, UnicodeDecodeError):
                row = InputError(f"{where}: holds a string that is not UTF-8 ({row}); make the file again")
            elif isinstance(row, Exception):
                advice = "leave out its column, or make it one of strings"
                row = InputError(f"{where}: holds a value that Python has none for ({row}); {advice}")
            yield Attempt(where, number, row)
    except pa.ArrowException as error:
        raise damaged(path, error) from None


def _all_values(batches: Iterable[Any], spell: Spell) -> Iterator[Any]:
    """Yield the rows of all batches of a file, which have one schema; errors as in `_values`."""
    classes: dict[str, list[str]] | None = None
    for batch in batches:
        if classes is None:
            classes = class_names(batch.schema, spell)
        for start in range(0, batch.num_rows, BATCH):
            yield from _values(batch.slice(start, BATCH), classes)


def _values(batch: Any, classes: Mapping[str, Sequence[str]]) -> list[Any]:
    """The rows of a batch; an error replaces a row with invalid UTF-8 or a date after the year 9999."""
    try:
        found: list[Any] = batch.to_pylist()
    except (OverflowError, ValueError) as error:
        if batch.num_rows == 1:
            return [error]
        return [row for number in range(batch.num_rows) for row in _values(batch.slice(number, 1), classes)]
    return [spelled(row, classes) for row in found] if classes else found


def _read_parquet(stream: BinaryIO, path: Path, choose: Choose) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(stream) as table:
        names = _choose_columns(table.schema_arrow.names, choose, path)
        yield from table.iter_batches(batch_size=BATCH, columns=names)


def _read_arrow(stream: BinaryIO, path: Path, choose: Choose) -> Iterator[Any]:
    """Yield the record batches of an IPC stream (as `datasets` saves it) or an IPC file (Feather)."""
    from pyarrow import ipc

    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    with ipc.open_file(stream) if is_file else ipc.open_stream(stream) as table:
        names = _choose_columns(table.schema.names, choose, path)
        batches = (table.get_batch(i) for i in range(table.num_record_batches)) if is_file else table
        yield from (batch.select(names) for batch in batches)


def _choose_columns(names: Sequence[str], choose: Choose, path: Path) -> list[str]:
    """The columns of a file to read; their names must be unique."""
    wanted = choose(names)
    found = [name for name in names if name in wanted]
    check_names(found, str(path))
    return found


BATCHES: dict[str, Callable[[BinaryIO, Path, Choose], Iterator[Any]]] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
"""Readers of record batches, by suffix."""
