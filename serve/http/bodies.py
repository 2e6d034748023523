"""Request bodies: bounded in bytes before and after decompression, and parsed as JSON that all parsers read alike."""

import zlib
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from bertline.artifacts import strict_json
from bertline.artifacts.strict_json import NotJsonError
from bertline.serve.http.refusals import RefusedError

ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's `wbits` for each Content-Encoding (RFC 9110, 8.4.1): gzip's wrapper, or zlib's own."""
SMALL = 1 << 16
"""Bytes of a body that are always read: uvicorn buffers as many per connection, whether they are read or not."""
AT_ONCE = 64
"""How many bodies of the largest size are held while they arrive: a client may take seconds to send one."""


class Bodies:
    """Reads bodies, within a limit on the memory that they take together."""

    def __init__(self, most: int, full: Callable[[], RefusedError]) -> None:
        """Set the limits.

        Args:
            most: most bytes of a body, as sent and as decompressed.
            full: makes the refusal of a request for whose body there is no room.
        """
        self._most, self._full = most, full
        self._held = 0
        """Bytes of bodies that are still arriving."""

    async def read(self, request: Request) -> bytes:
        """Read a body and decompress it.

        Raises:
            RefusedError: 413 for more than `most` bytes, 415 for an unknown encoding, 400 for bytes that are not in it;
                `full` for a body over SMALL while the bodies that arrive hold as much as AT_ONCE of the largest.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", *ENCODINGS):
            raise RefusedError(415, f"Content-Encoding {encoding!r:.40} is not supported; use gzip or deflate")
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
    """Decompress a body, to at most `most` + 1 bytes. Raises as `Bodies.read`."""
    inflate = zlib.decompressobj(ENCODINGS[encoding])
    try:
        found = inflate.decompress(content, most + 1)
    except zlib.error:
        raise RefusedError(400, f"the body is not {encoding}, though Content-Encoding says so") from None
    if len(found) > most:
        raise _too_large(most)
    if not inflate.eof or inflate.unused_data:
        raise RefusedError(400, f"the body is not one whole {encoding} stream")
    return found


def parsed(content: bytes) -> Any:
    """Parse JSON.

    Raises:
        RefusedError: 400 for what `strict_json` rejects.
    """
    try:
        return strict_json.loads(content)
    except NotJsonError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body has more than {most:,} bytes; send fewer texts, or shorter ones")
