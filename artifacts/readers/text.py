"""Files of text: how they are decompressed and decoded, and which lines are no text."""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

from bertline.artifacts.errors import InputError, install_advice


def decoded(path: Path, raw: BufferedReader, compression: str, newline: str | None) -> TextIO:
    """The text of a file, which is closed with it; `lines` finds the bytes that are not UTF-8.

    Args:
        path: the file.
        raw: its stream.
        compression: its suffix in COMPRESSED; empty if it is not compressed.
        newline: see `open`.

    Raises:
        InputError: the text is UTF-16.
    """
    binary = io.BufferedReader(COMPRESSED[compression](path, raw)) if compression else raw
    if binary.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise InputError(f"{path}: UTF-16, not UTF-8; convert the text, for example with iconv -f utf-16 -t utf-8")
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def lines(stream: Iterable[str], path: Path, tell: Callable[[InputError], None]) -> Iterator[str]:
    """Yield all lines; `tell` is called with the fault of a bad line before it is yielded."""
    for number, line in enumerate(stream, start=1):
        if "\0" in line:
            advice = "if the text is UTF-16, convert it with iconv -f utf-16le -t utf-8"
            tell(InputError(f"{path} line {number}: holds a NUL, which is no text; {advice}"))
        elif not line.isascii() and (byte := _no_utf8(line)) is not None:
            advice = "convert the text, for example with iconv -f windows-1252 -t utf-8"
            tell(InputError(f"{path} line {number}: not UTF-8 (byte 0x{byte:02x}); {advice}"))
        yield line


def refuse(fault: InputError) -> None:
    """Raise the fault of a line, where a bad line makes the whole file bad."""
    raise fault


def _no_utf8(line: str) -> int | None:
    """The first byte that could not be decoded, which surrogateescape has preserved; None if there is none."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        return ord(line[error.start]) - 0xDC00
    return None


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
"""Streams of the decompressed bytes, by the suffix of the compression."""
