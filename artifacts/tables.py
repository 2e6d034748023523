"""Rows of a data file: CSV, TSV, JSON lines or Parquet, streamed, each with the place it came from.

Values stay what the file says: CSV and TSV give strings only ("NA" and "007" included), nothing is guessed.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertline.artifacts.errors import InputError

LONGEST_FIELD = 1 << 27
"""Characters a CSV field may have; Python's own limit of 131,072 is shorter than a long document."""


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for every row of `path`; `where` names file and row (or line) as a person counts them.

    Raises:
        InputError: the file is missing, empty, of another kind, not UTF-8, or a row is not like the others.
    """
    if path.suffix not in READERS:
        raise InputError(f"{path}: unknown kind of file {path.suffix!r}; data is read from {', '.join(READERS)}")
    try:
        empty = True
        for row in READERS[path.suffix](path):
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); convert it, for example with iconv -t utf-8") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if empty:
        raise InputError(f"{path}: empty, it has no rows")


def columns(path: Path) -> list[str]:
    """The columns of the first row (of the header, for CSV and TSV).

    Raises:
        InputError: as `rows`.
    """
    return list(next(rows(path))[1])


def _delimited(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            for number, fields in enumerate(reader, start=2):
                if len(fields) not in (0, len(header)):  # a blank line is no row
                    raise InputError(f"{path} row {number}: {len(fields)} fields where the header has {len(header)}")
                if fields:
                    yield f"{path} row {number}", dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise InputError(f"{path} line {reader.line_num}: {error}") from None


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path} line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path} line {number}: a {type(row).__name__} where an object is expected")
            yield f"{path} line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow (bertline[train] has it)"
        ) from None
    try:
        with parquet.ParquetFile(path) as table:
            batches = table.iter_batches(batch_size=1024)
            for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
                yield f"{path} row {number}", row
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not readable as Parquet ({error})") from None


READERS = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
