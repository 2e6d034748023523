"""JSON lines: one object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from bertline.artifacts.errors import InputError
from bertline.artifacts.readers.attempt import Attempt
from bertline.artifacts.readers.text import lines


def read(stream: TextIO, path: Path) -> Iterator[Attempt]:
    """Yield the object of every line that is not blank, or what is wrong with it."""
    faults: list[InputError] = []
    for number, line in enumerate(lines(stream, path, faults.append), start=1):
        if line.strip():
            where = f"{path} line {number}"
            yield Attempt(where, number, faults.pop() if faults else _object(line, where), number)


def _object(line: str, where: str) -> dict[str, Any] | InputError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InputError(f"{where}: not JSON ({error}); each line is one object")
    return row if isinstance(row, dict) else InputError(f"{where}: a {type(row).__name__} where an object is expected")
