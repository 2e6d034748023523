"""A file of texts in, a file of answers out, a chunk at a time so that memory stays flat."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bertline.artifacts import tables
from bertline.serve.engine import Engine
from bertline.tasks.task import Columns

CHUNK = 1024
"""Texts answered at once: enough to sort by length, few enough to hold."""


def answers(engine: Engine, path: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    """An answer for each row of a CSV, TSV, JSON lines or Parquet file, in its order.

    Raises:
        InputError: the file cannot be read or a row has no text; names file and row.
    """
    texts = (engine.task.read_texts(row, columns, where) for where, row in tables.rows(path))
    while chunk := list(islice(texts, CHUNK)):
        yield from engine.predict(chunk)
