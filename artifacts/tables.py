"""Stream the rows of a data file, each with its location; text files may be compressed (.gz, .bz2, .xz, .zst).

Values are kept as they are in the file: CSV and TSV give only strings ("NA" and "007" included), and no types are
guessed. The suffix tells the kind of a file, in any case. Memory use is constant, except for .json, which is one value.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from bertline.artifacts import conll, squad
from bertline.artifacts.errors import InputError, install_advice

LONGEST_FIELD = 1 << 27
"""Maximum length of a CSV field in characters; Python's own limit of 131,072 is shorter than a long document."""
BATCH = 1024
"""Number of rows of a Parquet or Arrow file that are converted to Python values at once."""
_BARE = re.compile(r'("?)[\w.-]*\1')
"""A column name, quoted or not, without the blanks and punctuation of a sentence."""

Rows = Iterator[tuple[str, dict[str, Any]]]
"""Pairs (where, row); `where` names the file and the row or line, counted from 1."""


class Attempt(NamedTuple):
    """A row, or why it could not be read."""

    where: str
    """Location of the row, as in `Rows`."""
    number: int
    """Number of the row, as in `where`: the line in JSON lines, the row in a table (in CSV and TSV, the header is row
    1), the question or sentence in .json and CoNLL files."""
    row: dict[str, Any] | InputError
    line: int | None = None
    """Line on which the row begins, in CSV, TSV and JSON lines."""


Choose = Callable[[Sequence[str]], Collection[str]]
"""Chooses, from the columns of a file, the ones to read."""
Spell = Callable[[str, Sequence[str]], bool]
"""Whether the integers of a column are replaced by the names that the file has for 0, 1, …"""


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
        for attempt in _binary_rows(path, raw, choose, spell) if kind(path)[0] in BINARIES else _text_rows(path, raw):
            empty = False
            yield attempt
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}" if error.strerror else _tell_damage(path, error)) from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(_tell_damage(path, error)) from None
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
    binary = io.BufferedReader(COMPRESSED[compression](path, raw)) if compression else raw
    if binary.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise InputError(f"{path}: UTF-16, not UTF-8; convert the text, for example with iconv -f utf-16 -t utf-8")
    newline = "" if suffix in (".csv", ".tsv") else None  # a quoted field keeps its line endings
    with io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as stream:
        yield from TEXTS[suffix](stream, path)


def _tell_damage(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{path}: truncated, damaged or not a {path.suffix} file ({reason}); download or make the file again"


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: more than one column is named {twice[0]!r}; give each a name of its own")


def _lines(stream: Iterable[str], path: Path, tell: Callable[[InputError], None]) -> Iterator[str]:
    """Yield all lines; `tell` is called with the fault of a bad line before it is yielded."""
    for number, line in enumerate(stream, start=1):
        if "\0" in line:
            advice = "if the text is UTF-16, convert it with iconv -f utf-16le -t utf-8"
            tell(InputError(f"{path} line {number}: holds a NUL, which is no text; {advice}"))
        elif not line.isascii() and (byte := _no_utf8(line)) is not None:
            advice = "convert the text, for example with iconv -f windows-1252 -t utf-8"
            tell(InputError(f"{path} line {number}: not UTF-8 (byte 0x{byte:02x}); {advice}"))
        yield line


def _no_utf8(line: str) -> int | None:
    """The first byte that could not be decoded, which surrogateescape has preserved; None if there is none."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        return ord(line[error.start]) - 0xDC00
    return None


def _refuse(fault: InputError) -> None:
    raise fault


def _read_delimited(stream: TextIO, path: Path) -> Iterator[Attempt]:
    delimiter = "\t" if kind(path)[0] == ".tsv" else ","
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
    _check_names(header, f"{path} row 1")
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
    if named := {",": ".csv", "\t": ".tsv"}.get(other):
        advice = f"name the file {named}"
    else:
        read = f"pandas.read_csv({path.name!r}, sep={other!r}, dtype=str, keep_default_na=False)"
        advice = f"make another: {read}.to_csv(FILE, index=False)"
    by = "commas" if delimiter == "," else "tabs"
    raise InputError(f"{path} row 1: fields are separated by {other!r}, and {kind(path)[0]} is read by {by}; {advice}")


def _swallows(field: str) -> bool:
    """Whether a field of a TSV file seems to contain rows, because a text begins with an unescaped quote."""
    return "\t" in field and ("\n" in field or "\r" in field)


def _records(stream: Iterable[str], path: Path, delimiter: str) -> Iterator[tuple[int, int, list[str] | InputError]]:
    """Yield, for each record, the lines on which it begins and ends, and its fields or what is wrong with them."""
    csv.field_size_limit(LONGEST_FIELD)
    faults: list[InputError] = []
    reader = csv.reader(_lines(stream, path, faults.append), delimiter=delimiter, strict=True)
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


def _read_json_lines(stream: TextIO, path: Path) -> Iterator[Attempt]:
    faults: list[InputError] = []
    for number, line in enumerate(_lines(stream, path, faults.append), start=1):
        if line.strip():
            where = f"{path} line {number}"
            yield Attempt(where, number, faults.pop() if faults else _object(line, where), number)


def _object(line: str, where: str) -> dict[str, Any] | InputError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InputError(f"{where}: not JSON ({error}); each line is one object")
    return row if isinstance(row, dict) else InputError(f"{where}: a {type(row).__name__} where an object is expected")


def _read_conll(stream: TextIO, path: Path) -> Iterator[Attempt]:
    return _number_rows(conll.rows(_lines(stream, path, _refuse), path))


def _read_json(stream: TextIO, path: Path) -> Iterator[Attempt]:
    return _number_rows(squad.rows(io.StringIO("".join(_lines(stream, path, _refuse))), path))


def _number_rows(found: Rows) -> Iterator[Attempt]:
    return (Attempt(where, number, row) for number, (where, row) in enumerate(found, start=1))


def class_names(schema: Any) -> dict[str, list[str]]:
    """Names of 0, 1, … by column of an Arrow schema, for columns (or lists) of `datasets` ClassLabels.

    Metadata that `datasets` would not write is ignored: the columns can be read without it.
    """
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    match told:
        case {"info": {"features": dict(features)}}:
            found = {name: _names(feature) for name, feature in features.items()}
            return {name: names for name, names in found.items() if names}
    return {}


def _names(feature: Any) -> list[str]:
    match feature:
        case [inner] | {"feature": inner}:  # a list, as written by datasets before and since 4.0
            return _names(inner)
        case {"_type": "ClassLabel", "names": [*names]} if all(isinstance(name, str) for name in names):
            return names
    return []


def spelled(row: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with integers replaced by the names in `classes`; -1, which means no label, becomes None."""
    return row | {column: _spelled(row[column], names) for column, names in classes.items()}


def _spelled(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_spelled(each, names) for each in value]
    if not isinstance(value, int):  # None, or already a name
        return value
    return names[value] if 0 <= value < len(names) else None


def _binary_rows(path: Path, raw: BufferedReader, choose: Choose, spell: Spell) -> Iterator[Attempt]:
    suffix = kind(path)[0]
    try:
        import pyarrow as pa
    except ImportError:
        name = suffix[1:].capitalize()
        raise InputError(f"{path}: reading {name} needs pyarrow; {install_advice('parquet')}") from None
    try:
        for number, row in enumerate(_all_values(BINARIES[suffix](raw, path, choose), spell), start=1):
            where = f"{path} row {number}"
            if isinstance(row, UnicodeDecodeError):
                row = InputError(f"{where}: holds a string that is not UTF-8 ({row}); make the file again")
            elif isinstance(row, Exception):
                advice = "leave out its column, or make it one of strings"
                row = InputError(f"{where}: holds a value that Python has none for ({row}); {advice}")
            yield Attempt(where, number, row)
    except pa.ArrowException as error:
        raise InputError(_tell_damage(path, error)) from None


def _all_values(batches: Iterable[Any], spell: Spell) -> Iterator[Any]:
    """Yield the rows of all batches of a file, which have one schema; errors as in `_values`."""
    classes: dict[str, list[str]] | None = None
    for batch in batches:
        if classes is None:
            named = class_names(batch.schema).items()
            classes = {name: names for name, names in named if name in batch.schema.names and spell(name, names)}
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
    _check_names(found, str(path))
    return found


def _zstd(path: Path, raw: BufferedReader) -> Any:
    """The decompressed bytes of all frames of a .zst file; a truncated file raises OSError."""
    try:
        import pyarrow as pa
    except ImportError:
        advice = f"decompress the file with unzstd, or install it: {install_advice('parquet')}"
        raise InputError(f"{path}: reading .zst needs pyarrow; {advice}") from None
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


COMPRESSED: dict[str, Callable[[Path, BufferedReader], Any]] = {
    ".gz": lambda path, raw: gzip.GzipFile(fileobj=raw),
    ".bz2": lambda path, raw: bz2.BZ2File(raw),
    ".xz": lambda path, raw: lzma.LZMAFile(raw),  # noqa: SIM115 - closed by its reader
    ".zst": _zstd,
}
TEXTS: dict[str, Callable[[TextIO, Path], Iterator[Attempt]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".conll": _read_conll,
    ".iob": _read_conll,
    ".bio": _read_conll,
    ".txt": _read_conll,
}
CONLL = tuple(suffix for suffix, read in TEXTS.items() if read is _read_conll)
BINARIES: dict[str, Callable[[BinaryIO, Path, Choose], Iterator[Any]]] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
KINDS = (*TEXTS, *BINARIES)
"""Suffixes of all kinds of data file."""
