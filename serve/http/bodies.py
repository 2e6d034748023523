"""The body of a request: bounded in bytes before and after decompression, and JSON that all readers read alike."""

import zlib
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from bertline.artifacts import strict_json
from bertline.artifacts.strict_json import NotJsonError
from bertline.serve.http.refusals import RefusedError

ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib calls each Content-Encoding (RFC 9110, 8.4.1): gzip's wrapping, or its own."""
SMALL = 1 << 16
"""Bytes of a body that are read in any case: uvicorn holds as many of each connection, whether they are read or not."""
AT_ONCE = 64
"""Of the largest bodies, how many are held while they arrive: a client may take seconds to send one."""


class Bodies:
    """Reads them, no more at once than memory is meant for."""

    def __init__(self, most: int, full: Callable[[], RefusedError]) -> None:
        """Read bodies.

        Args:
            most: bytes of each, as sent and as decompressed.
            full: what a request hears for whose body there is no room.
        """
        self._most, self._full = most, full
        self._held = 0
        """Bytes of bodies that are not whole yet."""

    async def read(self, request: Request) -> bytes:
        """The bytes of a body, decompressed.

        Raises:
            RefusedError: 413 for more than `most` bytes, 415 for an unknown encoding, 400 for bytes that are not of it;
                `full` for one that is not SMALL, where as many as AT_ONCE of the largest bodies are being read.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", *ENCODINGS):
            raise RefusedError(415, f"Content-Encoding {encoding!r:.40} is not read; gzip and deflate are")
        content = bytearray()
        try:
            async for chunk in request.stream():
                content += chunk
                self._held += len(chunk)
                if len(content) > self._most:
                    raise _too_large(self._most)
                if self._held > AT_ONCE * self._most and len(content) > SMALL:
                    raise self._full()
        finally:
            self._held -= len(content)
        return bytes(content) if encoding == "identity" else decompressed(bytes(content), encoding, self._most)


def decompressed(content: bytes, encoding: str, most: int) -> bytes:
    """What was compressed. Raises as `Bodies.read`; no more than `most` bytes and one are ever made of it."""
    inflate = zlib.decompressobj(ENCODINGS[encoding])
    try:
        found = inflate.decompress(content, most + 1)
    except zlib.error:
        raise RefusedError(400, f"the body is not {encoding}, as Content-Encoding says") from None
    if len(found) > most:
        raise _too_large(most)
    if not inflate.eof or inflate.unused_data:
        raise RefusedError(400, f"the body is not one whole {encoding} stream")
    return found


def parsed(content: bytes) -> Any:
    """The value that JSON text stands for.

    Raises:
        RefusedError: 400 for what `strict_json` does not read.
    """
    try:
        return strict_json.loads(content)
    except NotJsonError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body has more than {most:,} bytes; send fewer texts, or shorter ones")
