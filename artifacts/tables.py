"""Rows of a data file, streamed, each with the place it came from; texts may be compressed (.gz, .bz2, .xz, .zst).

Values stay what the file says: CSV and TSV give strings only ("NA" and "007" included), nothing is guessed. The kind
of a file is its suffix, in small letters or capitals. Memory stays flat but for .json, which is one value.
"""

import bz2
import codecs
import contextlib
import csv
import gzip
import importlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from bertline.artifacts import conll, squad
from bertline.artifacts.errors import InputError

LONGEST_FIELD = 1 << 27
"""Characters a CSV field may have; Python's own limit of 131,072 is shorter than a long document."""
BATCH = 1024
"""Rows of a Parquet or Arrow file that are made Python values at once."""

Rows = Iterator[tuple[str, dict[str, Any]]]
"""(where, row): `where` names file and row (or line) as a person counts them."""


def rows(path: Path) -> Rows:
    """Yield (where, row) for every row of `path`.

    Raises:
        InputError: the file is missing, empty, damaged, of another kind, not UTF-8, or a row is not like the others.
    """
    empty = True
    try:
        for row in _binary_rows(path) if kind(path)[0] in BINARIES else _text_rows(path):
            empty = False
            yield row
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}" if error.strerror else _damaged(path, error)) from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(_damaged(path, error)) from None
    if empty:
        raise InputError(f"{path}: empty, it has no rows")


def columns(path: Path) -> list[str]:
    """The columns of the first row (of the header, for CSV and TSV).

    Raises:
        InputError: as `rows`.
    """
    return list(next(rows(path))[1])


def kind(path: Path) -> tuple[str, str]:
    """The suffix of the kind of file and that of its compression, in small letters: (".csv", ".gz"), (".csv", "")."""
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    return (inner, outer) if outer in COMPRESSED else (outer, "")


def _text_rows(path: Path) -> Rows:
    suffix = kind(path)[0]
    if suffix not in TEXTS:
        known = f"data is read from {', '.join(KINDS)}, texts also with {', '.join(COMPRESSED)}"
        raise InputError(f"{path}: unknown kind of file {suffix!r}; {known}")
    newline = "" if suffix in (".csv", ".tsv") else None  # a quoted field keeps its line ends
    try:
        with _open(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline) as stream:
            yield from TEXTS[suffix](stream, path)
    except UnicodeDecodeError:
        raise InputError(_not_utf8(path)) from None


def _open(path: Path) -> io.BufferedReader:
    compression = kind(path)[1]
    return io.BufferedReader(COMPRESSED[compression](path)) if compression else path.open("rb")


def _not_utf8(path: Path) -> str:
    """Where a text that could not be decoded is wrong, found by reading it again."""
    with _open(path) as binary:
        if binary.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return f"{path}: UTF-16, not UTF-8; convert the text, for example with iconv -f utf-16 -t utf-8"
    with _open(path) as binary, io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.encode()
            except UnicodeEncodeError as error:
                byte = ord(line[error.start]) - 0xDC00
                advice = "convert the text, for example with iconv -f windows-1252 -t utf-8"
                return f"{path} line {number}: not UTF-8 (byte 0x{byte:02x}); {advice}"
    return f"{path}: not UTF-8"


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{path}: not whole, or not what {path.suffix} says ({reason}); download or make the file again"


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: more than one column is named {twice[0]!r}; give each a name of its own")


def _lines(stream: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if "\0" in line:
            advice = "if the text is UTF-16, convert it with iconv -f utf-16le -t utf-8"
            raise InputError(f"{path} line {number}: holds a NUL, which is no text; {advice}")
        yield line


def _delimited(stream: TextIO, path: Path) -> Rows:
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = "\t" if kind(path)[0] == ".tsv" else ","
    reader = csv.reader(_lines(stream, path), delimiter=delimiter, strict=True)
    begin = 1  # the line that the row being read begins at
    try:
        header = next(reader, None)
        if header is None:
            return
        if not any(name.strip() for name in header):
            raise InputError(f"{path} row 1: blank; the first row names the columns")
        _check_names(header, f"{path} row 1")
        begin = reader.line_num + 1
        for number, fields in enumerate(reader, start=2):
            if len(fields) not in (0, len(header)):  # a blank line is no row
                found = f"{len(fields)} fields where the header has {len(header)}"
                advice = f"quote a field that holds a {'comma' if delimiter == ',' else 'tab'} or a line end"
                raise InputError(f"{path} row {number}: {found} (line {begin}); {advice}")
            if fields:
                yield f"{path} row {number}", dict(zip(header, fields, strict=True))
            begin = reader.line_num + 1
    except csv.Error as error:
        advice = 'a field with quotes in it is quoted itself, and those are doubled: "say ""so"""'
        raise InputError(f"{path} line {begin}: {error} in the row that begins here; {advice}") from None


def _json_lines(stream: TextIO, path: Path) -> Rows:
    for number, line in enumerate(_lines(stream, path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number}: not JSON ({error}); each line is one object") from None
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number}: a {type(row).__name__} where an object is expected")
        yield f"{path} line {number}", row


def _conll(stream: TextIO, path: Path) -> Rows:
    return conll.rows(_lines(stream, path), path)


def _binary_rows(path: Path) -> Rows:
    suffix, compression = kind(path)
    name = suffix[1:].capitalize()
    if compression:
        raise InputError(f"{path}: {name} is compressed inside, {compression} is not read; decompress the file")
    try:
        import pyarrow as pa
    except ImportError:
        advice = "pip install pyarrow (bertline[train] has it)"
        raise InputError(f"{path}: reading {name} needs pyarrow; {advice}") from None
    try:
        with path.open("rb") as stream:
            number = 0
            for batch in BINARIES[suffix](stream, path):
                for start in range(0, batch.num_rows, BATCH):
                    for row in batch.slice(start, BATCH).to_pylist():
                        number += 1
                        yield f"{path} row {number}", row
    except pa.ArrowException as error:
        raise InputError(_damaged(path, error)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a string after row {number} is not UTF-8 ({error}); make the file again") from None


def _parquet(stream: BinaryIO, path: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(stream) as table:
        _check_names(table.schema_arrow.names, str(path))
        yield from table.iter_batches(batch_size=BATCH)


def _arrow(stream: BinaryIO, path: Path) -> Iterator[Any]:
    """The record batches of an IPC stream (what `datasets` saves) or an IPC file (Feather)."""
    from pyarrow import ipc

    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    with ipc.open_file(stream) if is_file else ipc.open_stream(stream) as table:
        _check_names(table.schema.names, str(path))
        yield from (table.get_batch(i) for i in range(table.num_record_batches)) if is_file else table


class _Zstd(io.RawIOBase):
    """The bytes of a .zst file, all frames of it; one that is cut short raises EOFError, as those of gzip do."""

    def __init__(self, path: Path) -> None:
        self._chunks = _zstd_chunks(path)
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._ready = memoryview(chunk)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    new, fault = _zstd_of(path)
    frame = None
    data = b""
    with path.open("rb") as stream:
        while data := data or stream.read(1 << 14):
            frame = frame or new()
            try:
                yield frame.decompress(data)
            except fault as error:
                raise OSError(str(error)) from None
            data = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends within a frame")


def _zstd_of(path: Path) -> tuple[Callable[[], Any], type[Exception]]:
    """What makes a decompressor of one frame, and the error it raises: Python's own from 3.14 on, or zstandard's."""
    with contextlib.suppress(ImportError):
        own = importlib.import_module("compression.zstd")
        return own.ZstdDecompressor, own.ZstdError
    with contextlib.suppress(ImportError):
        other = importlib.import_module("zstandard")
        return lambda: other.ZstdDecompressor().decompressobj(), other.ZstdError
    raise InputError(f"{path}: reading .zst needs zstandard; pip install zstandard, or decompress the file with unzstd")


COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _Zstd,
}
TEXTS: dict[str, Callable[[TextIO, Path], Rows]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": squad.rows,
    ".conll": _conll,
    ".iob": _conll,
    ".bio": _conll,
    ".txt": _conll,
}
BINARIES: dict[str, Callable[[BinaryIO, Path], Iterator[Any]]] = {".parquet": _parquet, ".arrow": _arrow}
KINDS = (*TEXTS, *BINARIES)
"""The kinds of data file, by suffix."""
