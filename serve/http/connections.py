"""Closes connections whose request does not arrive in time, and those whose client does not read its answers.

uvicorn bounds only the pause between two requests. Here that before the first is bounded as well; a request must arrive
whole within SECONDS of its first byte (a pipelined one: of the previous answer), and a client must read TAKEN_BYTES of
an answer every SECONDS until it has read all of it.

Offers of another protocol (`Upgrade: h2c`, by Java's HttpClient and `curl --http2`) are ignored, as RFC 9110 lets a
server do. httptools assumes that what follows the head of such a request belongs to the other protocol, so that its
body would be lost or be read as the next request: the head is parsed a second time, without the offer.
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
"""Seconds between two checks of how much a client has read."""
IDLE_SECONDS = 75
"""Seconds that a connection may be idle before a request: load balancers (AWS's, ingress-nginx) keep theirs for
60 s, and with a shorter time here would send requests on connections that are just being closed."""
TAKEN_BYTES = 1 << 12
"""Bytes of an answer that a client must read in SECONDS: one that reads a byte a second would hold it for days."""
HEAD_BYTES = 1 << 16
"""Most bytes of a request before its head is whole; and after its last chunk, before its trailers are."""

BROKEN_OFF = "broken_off"
"""Key in a request's state: the status of the answer that was sent here, so that the application must send none."""


def _last(status: str, sentence: str) -> bytes:
    """An answer that closes its connection."""
    body = json.dumps({"error": sentence})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{head}\r\n\r\n{body}".encode()


LATE = _last("408 Request Timeout", f"the request did not arrive whole in {SECONDS:g} s")
LONG = _last("431 Request Header Fields Too Large", f"the head or trailer of a request has over {HEAD_BYTES:,} bytes")
INVALID = _last("400 Bad Request", "this is not HTTP/1.1, or its head contradicts itself")


class Connection(HttpToolsProtocol):
    """The connection of one client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrival_timer: asyncio.TimerHandle | None = None
        """Timer that closes the connection unless the request is whole by then."""
        self._head_bytes: int | None = None
        """Bytes so far of a head that is not whole; None if there is none."""
        self._ended = 0
        """Number of requests that have arrived whole."""
        self._trailer_bytes: int | None = None
        """Bytes since the size of a chunk, which trailers follow if it is the last one; None within a chunk."""
        self._read_timer: asyncio.TimerHandle | None = None
        """Timer that checks how much the client has read."""
        self._unread, self._unread_since = 0, 0.0
        """Bytes that the client had yet to read, and when that was."""
        self._is_over = False
        """Whether what arrives is ignored, since it cannot be parsed: the connection ends after a last answer."""
        self._answered: RequestResponseCycle | None = None
        """The request being answered: of pipelined requests, uvicorn tells only the last that the client has gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # a TCP transport
        self._begin_idling()  # load balancers and browsers open connections before they need them

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._arrival_timer)
        _cancel(self._read_timer)
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        self._unset_keepalive_if_required()  # uvicorn leaves it set if the client resets the connection
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._arrival_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()
        self._unset_keepalive_if_required()
        if self._trailer_bytes is not None:
            self._trailer_bytes += len(data)
        ended = self._ended
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self.logger.warning("a request is not HTTP/1.1")
            self._refuse_invalid()
            return
        if self._head_bytes is not None and self._ended == ended:  # otherwise most of it may be the previous body
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(LONG)
        if self._trailer_bytes is not None and self._trailer_bytes > HEAD_BYTES:
            self._trailer_bytes = None
            self._break_off(431, LONG)
        self._keep_alive()

    def on_message_begin(self) -> None:
        if self._head_bytes is None:  # otherwise a head is being parsed a second time
            self._expect()
            self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self._head_bytes = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._trailer_bytes is None:  # a trailer must not count as a header: no proxy has checked it
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._trailer_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._trailer_bytes = None
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._trailer_bytes = None
        if not self.parser.should_upgrade():
            _cancel(self._arrival_timer)
            self._arrival_timer = None
            self._ended += 1
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._arrival_timer is not None and self._is_another():
            self._expect()  # again: it may not even have been read while this one was answered
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        self._watch()
        super().pause_writing()

    def timeout_keep_alive_handler(self) -> None:
        if _unread_bytes(self.transport):  # a long answer is still being read, which `_look` limits
            self._begin_idling()
        else:
            super().timeout_keep_alive_handler()

    def _begin_idling(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _parse(self, data: memoryview) -> None:
        """Parse what has arrived. Raises HttpParserError."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if self.scope["method"] == "CONNECT":  # which httptools reports as an offer as well
                    raise httptools.HttpParserError("CONNECT") from None
                data = data[offer.args[0] :]
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
                self.parser.feed_data(head)

    def _head_without_offer(self) -> bytes:
        """The head that was just parsed, without its offer of another protocol."""
        lines = [b"%b %b HTTP/%b" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _should_upgrade(self) -> bool:
        """Keep uvicorn from answering a head that offers another protocol: it is about to be given it again."""
        return True

    def _keep_alive(self) -> None:
        """Start the idle timer if the request that has just arrived whole was answered before that."""
        answered = self.cycle is not None and self.cycle.response_complete and self._arrival_timer is None
        if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._begin_idling()

    def _expect(self) -> None:
        _cancel(self._arrival_timer)
        self._arrival_timer = self.loop.call_later(SECONDS, self._late)

    def _late(self) -> None:
        self._arrival_timer = None
        if self._due_first() is not None:
            self._expect()
        elif self._head_bytes is None:
            self._break_off(408, LATE)
        else:
            self._refuse(LATE)

    def _is_another(self) -> bool:
        """Whether the request that is not whole is another than the one that is being, or was last, answered."""
        return self._head_bytes is not None or self.cycle is not self._answered

    def _due_first(self) -> RequestResponseCycle | None:
        """The request that is still being answered before the one that is not whole, if there is one."""
        is_due = self._is_another() and self._answered is not None and not self._answered.response_complete
        return self._answered if is_due else None

    def _refuse_invalid(self) -> None:
        """Close because of what cannot be parsed, with an answer or, if an earlier one is due first, after that."""
        if (earlier := self._due_first()) is not None:
            self._is_over, earlier.keep_alive = True, False
            _cancel(self._arrival_timer)
            self._arrival_timer = None
        elif self._head_bytes is None:
            self._break_off(400, INVALID)
        else:
            self._refuse(INVALID)

    def _break_off(self, status: int, answer: bytes) -> None:
        """Close in the middle of a request, with an answer unless one has begun or an earlier one is due first."""
        if self.cycle is not None and self.cycle is self._answered and not self.cycle.response_started:
            self.cycle.scope["state"][BROKEN_OFF] = status
            self.transport.write(answer)
        self._end()

    def _refuse(self, answer: bytes) -> None:
        """Close in the middle of a head, with an answer unless an earlier one is due first."""
        self._head_bytes = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
        self._end()

    def _end(self) -> None:
        """Close once the client has read what was written, or stops reading it."""
        self._watch()
        self.transport.close()

    def _watch(self) -> None:
        """Start checking how much the client reads."""
        _cancel(self._read_timer)
        self._unread, self._unread_since = _unread_bytes(self.transport), self.loop.time()
        self._read_timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Abort the connection if the client does not read what was written."""
        left = _unread_bytes(self.transport)
        if self._unread - left >= TAKEN_BYTES:
            self._watch()
        elif left and self.loop.time() - self._unread_since >= SECONDS:
            self.transport.abort()
        elif left:
            self._read_timer = self.loop.call_later(LOOK_SECONDS, self._look)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes written that the client's system has not acknowledged: in this process's buffer, and in the kernel's
    (Linux: `man 7 tcp`, SIOCOUTQ).
    """
    sent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(sent, sys.byteorder)
