"""Examples and windows in memory-mapped Arrow files, of which only the parts in use are loaded.

Each file is in Arrow's IPC format, in record batches of equal size, so that a division finds a row; numbers are read
from the mapping without a copy. https://arrow.apache.org/docs/python/ipc.html
"""

import itertools
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from bertline.artifacts.sequences import batched
from bertline.tasks.task import Example, Output, Target
from bertline.tasks.tokens import Encoded

ROWS = 1024
"""Rows per record batch; the last may have fewer."""

Row = TypeVar("Row")


class Mapped(Sequence[Row]):
    """The rows of a file as a sequence; a slice is a list."""

    def __init__(self, path: Path) -> None:
        self._file = ipc.open_file(pa.memory_map(str(path)))
        self._views: dict[int, Any] = {}
        count = self._file.num_record_batches
        self._length = (count - 1) * ROWS + self._file.get_batch(count - 1).num_rows if count else 0

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        batch, row = divmod(index % len(self), ROWS)
        return self._row(self._view(batch), row)

    def _view(self, batch: int) -> Any:
        if batch not in self._views:
            self._views[batch] = self._viewed(self._file.get_batch(batch))
        return self._views[batch]

    @abstractmethod
    def _viewed(self, batch: pa.RecordBatch) -> Any:
        """The view of a batch that `_row` reads from, made without copying the batch."""

    @abstractmethod
    def _row(self, view: Any, row: int) -> Row: ...


class Examples(Mapped[Example]):
    """Labelled examples."""

    SCHEMA = pa.schema([(name, pa.large_string()) for name in Example._fields])

    @classmethod
    def write(cls, path: Path, examples: Iterable[Example]) -> "Examples":
        """Write examples as they come, with their gold values as JSON, and map the file."""
        with ipc.new_file(str(path), cls.SCHEMA) as writer:
            for some in batched(examples, ROWS):
                columns = zip(*((text, pair, json.dumps(gold)) for text, pair, gold in some), strict=True)
                writer.write_batch(
                    pa.record_batch([pa.array(column, pa.large_string()) for column in columns], cls.SCHEMA)
                )
        return cls(path)

    def _viewed(self, batch: pa.RecordBatch) -> Any:
        return batch.columns

    def _row(self, view: Any, row: int) -> Example:
        text, pair, gold = (column[row].as_py() for column in view)
        return Example(text, pair, json.loads(gold))


LISTS = {"input_ids": np.int32, "type_ids": np.int8, "offsets": np.int32, "sequence": np.int8}
"""The arrays of a window, and the types that their numbers fit in."""


class Windows(Mapped[Encoded]):
    """Tokenized windows; `targets` has the training target of each at the same index."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.targets = Targets(path)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The number of tokens in each window, special tokens included."""
        return self._from_batches(lambda view: np.diff(view["input_ids"][0]))

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """Whether the text of each window was truncated."""
        return self._from_batches(lambda view: view["truncated"]).astype(np.bool_)

    def _from_batches(self, look: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        found = [look(self._view(batch)) for batch in range(self._file.num_record_batches)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    @classmethod
    def write(cls, path: Path, pairs: Iterable[tuple[Encoded, Target]]) -> "Windows":
        """Write windows and their targets as they come, and map the file."""
        writer = None
        try:
            for some in batched(pairs, ROWS):
                batch = _batch([window for window, _ in some], [target for _, target in some])
                writer = writer or ipc.new_file(str(path), batch.schema)
                writer.write_batch(batch)
        finally:
            if writer is not None:
                writer.close()
        return cls(path)

    def _viewed(self, batch: pa.RecordBatch) -> Any:
        lists = {name: _list_view(batch.column(name)) for name in LISTS}
        return {**lists, **{name: batch.column(name).to_numpy() for name in ("text", "truncated")}}

    def _row(self, view: Any, row: int) -> Encoded:
        ids, types, offsets, sequence = (_list_at(view[name], row) for name in LISTS)
        return Encoded(
            ids, types, offsets.reshape(-1, 2), sequence, int(view["text"][row]), bool(view["truncated"][row])
        )


class Targets(Mapped[Target]):
    """The training target of each window: a class or value, one per label, one per token, or two token positions."""

    def _viewed(self, batch: pa.RecordBatch) -> Any:
        column = batch.column("target")
        return _list_view(column) if pa.types.is_list(column.type) else (None, column.to_numpy())

    def _row(self, view: Any, row: int) -> Target:
        return np.asarray(view[1][row]) if view[0] is None else _list_at(view, row)


class Outputs(Mapped[Output]):
    """A model's output for each window: (labels,), or (tokens, channels)."""

    @classmethod
    def write(cls, path: Path, outputs: Iterable[Output]) -> "Outputs":
        """Write outputs, at least one, as they come, and map the file."""
        first = next(rest := iter(outputs))
        column = pa.field("output", pa.list_(pa.float32()))
        schema = pa.schema([column], {"channels": str(first.shape[1] if first.ndim == 2 else 0)})
        with ipc.new_file(str(path), schema) as writer:
            for some in batched(itertools.chain([first], rest), ROWS):
                writer.write_batch(pa.record_batch([_lists([one.ravel().astype(np.float32) for one in some])], schema))
        return cls(path)

    def _viewed(self, batch: pa.RecordBatch) -> Any:
        return _list_view(batch.column("output"))

    def _row(self, view: Any, row: int) -> Output:
        channels = int(self._file.schema.metadata[b"channels"])
        flat = _list_at(view, row)
        return flat.reshape(-1, channels) if channels else flat


def _batch(windows: Sequence[Encoded], targets: Sequence[Target]) -> pa.RecordBatch:
    columns = {
        name: _lists([getattr(window, name).ravel().astype(kind) for window in windows]) for name, kind in LISTS.items()
    }
    columns["text"] = pa.array([window.text for window in windows], pa.int64())
    columns["truncated"] = pa.array(np.array([window.truncated for window in windows], np.int8))
    columns["target"] = _lists(targets) if targets[0].ndim else pa.array(np.stack(targets))
    return pa.RecordBatch.from_pydict(columns)


def _lists(arrays: Sequence[npt.NDArray[Any]]) -> pa.Array:
    begins = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(begins, np.concatenate(arrays))


def _list_view(column: pa.ListArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return column.offsets.to_numpy(), column.values.to_numpy()


def _list_at(view: tuple[npt.NDArray[Any], npt.NDArray[Any]], row: int) -> npt.NDArray[Any]:
    begins, values = view
    return values[begins[row] : begins[row + 1]]
