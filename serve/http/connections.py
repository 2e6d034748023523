"""Connections that hold a place without asking anything, and those that do not take their answers, are ended.

uvicorn bounds only the pause between two requests. Here a request has SECONDS from its first byte (the first one: from
the connection) to its last, and an answer that is not taken SECONDS from when the client stopped reading, or from when
it was written whole.

Offers of another protocol (`Upgrade: h2c`, of Java's HttpClient and `curl --http2`) are ignored, as RFC 9110 lets a
server do. httptools takes what follows the head of such a request for the other protocol's, so that its body would be
lost or be read as the next request: the head is parsed a second time, without the offer.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
import termios
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

SECONDS = 6
IDLE_SECONDS = 75
"""That a connection may pause between two requests: balancers keep theirs for 60 s (AWS's, ingress-nginx), and would
send one just as it is closed here."""
HEAD_BYTES = 1 << 16
"""That may arrive of a request before its head is whole; and after its last chunk, before its trailers are."""

BROKEN_OFF = "broken_off"
"""In a request's state: the status that it was answered with here, so that the application has nobody to answer."""


def _last(status: str, sentence: str) -> bytes:
    """An answer that ends a connection."""
    body = json.dumps({"error": sentence})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{head}\r\n\r\n{body}".encode()


LATE = _last("408 Request Timeout", f"the request did not arrive whole in {SECONDS:g} s")
LONG = _last("431 Request Header Fields Too Large", f"the head or trailer of a request has over {HEAD_BYTES:,} bytes")
INVALID = _last("400 Bad Request", "this is not HTTP/1.1, or its head contradicts itself")


class Connection(HttpToolsProtocol):
    """One client's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole: asyncio.TimerHandle | None = None
        """Ends the connection unless the request is whole by then."""
        self._head: int | None = None
        """Bytes of a head that is not whole; None where there is none."""
        self._trailer: int | None = None
        """Those that came since the size of a chunk, if it is the last: trailers may follow it; None within a chunk."""
        self._taken: asyncio.TimerHandle | None = None
        """Ends it unless the client reads on by then."""
        self._answered: RequestResponseCycle | None = None
        """What is being answered: of several requests in a row uvicorn tells only the last that the client has gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # it is TCP's
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._whole)
        _cancel(self._taken)
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        self._unset_keepalive_if_required()  # uvicorn leaves it where the client has reset the connection
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._whole is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()
        self._unset_keepalive_if_required()
        if self._trailer is not None:
            self._trailer += len(data)
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self.logger.warning("a request is not HTTP/1.1")
            self.send_400_response("")
            return
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(LONG)
        if self._trailer is not None and self._trailer > HEAD_BYTES:
            self._trailer = None
            self._break_off(431, LONG)
        self._keep_alive()

    def on_message_begin(self) -> None:
        if self._head is None:  # else it is a head that is parsed a second time
            _cancel(self._whole)
            self._expect()
            self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self._head = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._trailer is None:  # what trails a body is no header: whoever stands in between has not seen it
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._trailer = 0

    def on_body(self, body: bytes) -> None:
        self._trailer = None
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._trailer = None
        if not self.parser.should_upgrade():
            _cancel(self._whole)
            self._whole = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # a transport that is closing waits for its last bytes to be taken, and would for ever
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            _cancel(self._taken)
            self._taken = self.loop.call_later(SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        self._taken = self.loop.call_later(SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        _cancel(self._taken)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(INVALID)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """SECONDS after an answer, which has been read by now, or is not."""
        if self.transport.get_write_buffer_size() or _unread_bytes(self.transport):
            self._end()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(IDLE_SECONDS - SECONDS, self._end)

    def shutdown(self) -> None:
        """The server ends: an idle connection is closed at once, one with a request once that is answered."""
        if self.cycle is None or self.cycle.response_complete:
            self._end()
        else:
            super().shutdown()

    def _parse(self, data: memoryview) -> None:
        """Parse what has arrived. Raises HttpParserError."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if self.scope["method"] == "CONNECT":  # which httptools takes for an offer as well
                    raise httptools.HttpParserError("CONNECT") from None
                data = data[offer.args[0] :]
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
                self.parser.feed_data(head)

    def _head_without_offer(self) -> bytes:
        """The head that was parsed just now."""
        lines = [b"%b %b HTTP/%b" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _should_upgrade(self) -> bool:
        """To uvicorn, of a head that offers another protocol: not to answer what it is about to be given again."""
        return True

    def _keep_alive(self) -> None:
        """Wait as long as for another request where one has come to its end that was answered before."""
        answered = self.cycle is not None and self.cycle.response_complete and self._whole is None
        if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expect(self) -> None:
        self._whole = self.loop.call_later(SECONDS, self._late)

    def _late(self) -> None:
        self._whole = None
        if self._head is None:
            self._break_off(408, LATE)
        else:
            self._refuse(LATE)

    def _break_off(self, status: int, answer: bytes) -> None:
        """End in the midst of a request, with an answer unless one has begun, or another's is to come before it."""
        if self.cycle is not None and self.cycle is self._answered and not self.cycle.response_started:
            self.cycle.scope["state"][BROKEN_OFF] = status
            self.transport.write(answer)
        self._end()

    def _refuse(self, answer: bytes) -> None:
        """End in the midst of a head with an answer, unless another's is to come before it."""
        self._head = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
        self._end()

    def _end(self) -> None:
        """Close, without waiting for a client that does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _unread_bytes(transport: asyncio.BaseTransport) -> int:
    """Of what was sent, those that the client's system has not taken (Linux: `man 7 tcp`, SIOCOUTQ)."""
    found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(found, sys.byteorder)
