"""Output formats of bulk prediction. Answers are collected as JSON lines; the other formats are made from them at the
end, when all columns are known."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError, install_advice
from bertline.artifacts.sequences import batched

ROWS = 8192
"""Answers per Parquet row group, converted to Arrow at once."""


def check(target: Path) -> None:
    """Refuse an output format that cannot be written.

    Raises:
        InputError: the suffix is unknown, or pyarrow is missing for Parquet.
    """
    if _suffix(target) not in FORMATS:
        raise InputError(f"{target}: answers are written as {', '.join(FORMATS)}; name a file of one of these kinds")
    if _suffix(target) == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise InputError(f"{target}: writing Parquet needs pyarrow; {install_advice('parquet')}") from None


def made(answers: Path, target: Path) -> Path:
    """Convert a JSON lines file of answers to the format of `target`, in a file beside it, unless it already is."""
    convert = FORMATS[_suffix(target)]
    if convert is None:
        return answers
    path = answers.with_name(target.name)
    convert(answers, path)
    return path


def _suffix(path: Path) -> str:
    return "".join(tables.kind(path))


def _gzip(answers: Path, path: Path) -> None:
    """Compress; equal answers give equal bytes, since neither a time nor a file name is stored."""
    with (
        answers.open("rb") as source,
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream,
    ):
        shutil.copyfileobj(source, stream, 1 << 20)


def _csv(answers: Path, path: Path) -> None:
    """Write a column for each key that any answer has; values other than strings are written as JSON."""
    keys = list(dict.fromkeys(key for answer in _lines(answers) for key in answer))
    with path.open("w", encoding="utf-8", newline="") as stream:
        plain = csv.writer(stream, lineterminator="\n")
        quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(keys)
        for answer in _lines(answers):
            cells = [_cell(answer.get(key)) for key in keys]
            has_return = any("\r" in cell for cell in cells)  # Python before 3.13 does not quote these
            (quoted if has_return else plain).writerow(cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parquet(answers: Path, path: Path) -> None:
    """Write a column for each key, nested as in the answers, which are read twice: keys differ between answers."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([])
    for batch in batched(_lines(answers), ROWS):
        keys = dict.fromkeys(key for row in batch for key in row)
        columns = {key: pa.array([row.get(key) for row in batch]) for key in keys}
        schema = pa.unify_schemas([schema, pa.table(columns).schema], promote_options="permissive")
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in batched(_lines(answers), ROWS):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _lines(answers: Path) -> Iterator[dict[str, Any]]:
    with answers.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


FORMATS: dict[str, Callable[[Path, Path], None] | None] = {
    ".jsonl": None,
    ".jsonl.gz": _gzip,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""The converter from JSON lines for each suffix; None if there is nothing to convert."""
