"""Connections that hold a place without asking anything, and those that do not take their answers, are ended.

uvicorn bounds only the pause between two requests. Here a request has SECONDS from its first byte (the first one: from
the connection; of several in a row: from the answer to the one before) to its last, and of an answer TAKEN_BYTES are to
be taken every SECONDS, until all of it is.

Offers of another protocol (`Upgrade: h2c`, of Java's HttpClient and `curl --http2`) are ignored, as RFC 9110 lets a
server do. httptools takes what follows the head of such a request for the other protocol's, so that its body would be
lost or be read as the next request: the head is parsed a second time, without the offer.
"""

import asyncio
import fcntl
import json
import sys
import termios
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

SECONDS = 6
LOOK_SECONDS = 1
"""Between two looks at what a client takes."""
IDLE_SECONDS = 75
"""That a connection may pause between two requests: balancers keep theirs for 60 s (AWS's, ingress-nginx), and would
send one just as it is closed here."""
TAKEN_BYTES = 1 << 12
"""Of an answer that a client takes in SECONDS at the least: one that takes a byte a second would hold it for days."""
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
        self._ended = 0
        """Requests that have come to their end."""
        self._trailer: int | None = None
        """Bytes that came since the size of a chunk, if it is the last: trailers may follow it; None within a chunk."""
        self._taken: asyncio.TimerHandle | None = None
        """Looks at what the client takes."""
        self._left, self._since = 0, 0.0
        """Bytes that it had to take, and when that was."""
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
        ended = self._ended
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self.logger.warning("a request is not HTTP/1.1")
            self.send_400_response("")
            return
        if self._head is not None and self._ended == ended:  # else most of it may be the body of the one before
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(LONG)
        if self._trailer is not None and self._trailer > HEAD_BYTES:
            self._trailer = None
            self._break_off(431, LONG)
        self._keep_alive()

    def on_message_begin(self) -> None:
        if self._head is None:  # else it is a head that is parsed a second time
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
            self._ended += 1
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._whole is not None and self._is_another():
            self._expect()  # anew: it may not even have been read while this one was answered
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        self._watch()
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(INVALID)
        self._end()

    def timeout_keep_alive_handler(self) -> None:
        if _untaken(self.transport):  # of a long answer, for as long as `_look` lets it
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

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
        _cancel(self._whole)
        self._whole = self.loop.call_later(SECONDS, self._late)

    def _late(self) -> None:
        self._whole = None
        if self._is_another() and self._answered is not None and not self._answered.response_complete:
            self._expect()
        elif self._head is None:
            self._break_off(408, LATE)
        else:
            self._refuse(LATE)

    def _is_another(self) -> bool:
        """Whether the request that is not whole is another than the one that is or was answered."""
        return self._head is not None or self.cycle is not self._answered

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
        """Close once what was written is taken, or no more of it is."""
        self._watch()
        self.transport.close()

    def _watch(self) -> None:
        """Begin to look what the client takes."""
        _cancel(self._taken)
        self._left, self._since = _untaken(self.transport), self.loop.time()
        self._taken = self.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """End the connection of a client that does not take what was written."""
        left = _untaken(self.transport)
        if self._left - left >= TAKEN_BYTES:
            self._watch()
        elif left and self.loop.time() - self._since >= SECONDS:
            self.transport.abort()
        elif left:
            self._taken = self.loop.call_later(LOOK_SECONDS, self._look)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _untaken(transport: asyncio.Transport) -> int:
    """Of what was written, the bytes that the client's system has not taken: those that are here, and those that ours
    has (Linux: `man 7 tcp`, SIOCOUTQ).
    """
    sent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(sent, sys.byteorder)
