"""A connection whose time is told by hand: what is long is an answer, or what a client leaves unread."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from bertline.artifacts.errors import InputError
from bertline.serve.http import connections
from bertline.serve.http.connections import TAKEN_BYTES, Connection
from bertline.serve.http.server import _bind

LONG = 1 << 20
"""Bytes of an answer, more than the buffers of both systems hold."""
NEVER = 1e6
"""Seconds, of which none pass by themselves."""
POST = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n"


class Talk:
    """A client, and the server's side of its connection."""

    def __init__(self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection, self.reader, self.writer = connection, reader, writer

    async def ask(self) -> None:
        """Send a request, until its answer is written whole."""
        self.writer.write(POST % 0)
        while self.connection.cycle is None or not self.connection.cycle.response_complete:
            await asyncio.sleep(0)
        assert self.connection.transport.get_write_buffer_size()

    async def read(self, count: int) -> int:
        """The bytes that were read until the server has seen so many, or all, leave."""
        before, found = untaken(self.connection), 0
        while untaken(self.connection) > max(0, before - count):
            chunk = await self.reader.read(1024)
            assert chunk
            found += len(chunk)
        return found

    def pass_time(self) -> None:
        """As long as a client has to read on."""
        self.connection._unread_since -= NEVER
        self.connection._look()


def untaken(connection: Connection) -> int:
    return connections._unread_bytes(connection.transport)


@asynccontextmanager
async def talking(answer: Callable[[], Awaitable[bytes]]) -> AsyncIterator[Talk]:
    """A client of a server that answers so."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        body = await answer()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(application, http=Connection, lifespan="off", log_config=None, timeout_keep_alive=1 << 20)
    config.load()
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection(config, ServerState(), {}))
        return made[0]

    listening = await asyncio.get_running_loop().create_server(make, sock=_bind("127.0.0.1", 0))
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(listening.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=small, limit=2048)
    while not made or made[0].transport is None:
        await asyncio.sleep(0)
    try:
        yield Talk(made[0], reader, writer)
    finally:
        writer.transport.abort()
        made[0].transport.abort()
        listening.close()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS", NEVER)
    monkeypatch.setattr(connections, "LOOK_SECONDS", NEVER)


async def long() -> bytes:
    return bytes(LONG)


def test_nobody_can_connect_before_the_server_is_ready() -> None:
    with _bind("127.0.0.1", 0) as bound, socket.socket() as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(bound.getsockname())
        bound.listen()
        with pytest.raises(InputError, match=r"^cannot listen on .*Address already in use\); name another --host"):
            _bind(*bound.getsockname())


def test_a_connection_may_be_opened_long_before_its_first_request() -> None:
    async def wait() -> None:
        async with talking(long) as talk:
            assert talk.connection._arrival_timer is None
            assert talk.connection.timeout_keep_alive_task is not None

    uvloop.run(asyncio.wait_for(wait(), 60))


def test_an_answer_that_is_read_slowly_but_steadily_is_sent_whole() -> None:
    async def read() -> None:
        async with talking(long) as talk:
            await talk.ask()
            found, looks = 0, 0
            while untaken(talk.connection):
                found += await talk.read(64 * TAKEN_BYTES)
                talk.pass_time()
                looks += 1
            assert looks > 2
            assert not talk.connection.transport.is_closing()
            talk.writer.write_eof()
            assert found + len(await talk.reader.read()) > LONG

    uvloop.run(asyncio.wait_for(read(), 60))


@pytest.mark.parametrize("count", [0, LONG // 2])
def test_an_answer_of_which_too_little_is_read_ends_its_connection(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(connections, "TAKEN_BYTES", LONG)

    async def read() -> None:
        async with talking(long) as talk:
            await talk.ask()
            talk.connection._look()
            assert not talk.connection.transport.is_closing()
            await talk.read(count)
            talk.pass_time()
            assert talk.connection.transport.is_closing()

    uvloop.run(asyncio.wait_for(read(), 60))


def test_an_end_does_not_cut_an_answer_that_is_being_sent() -> None:
    async def read() -> None:
        async with talking(long) as talk:
            await talk.ask()
            talk.connection.shutdown()
            assert len((await talk.reader.read()).partition(b"\r\n\r\n")[2]) == LONG

    uvloop.run(asyncio.wait_for(read(), 60))


def held() -> tuple[asyncio.Event, Callable[[], Awaitable[bytes]]]:
    """An application's answer that waits for the event."""
    told = asyncio.Event()

    async def answer() -> bytes:
        await told.wait()
        return b"answer"

    return told, answer


@pytest.mark.parametrize("missing", [5, 2], ids=["in its head", "in its body"])
def test_the_next_request_has_its_time_from_the_answer_to_the_one_before(missing: int) -> None:
    async def ask() -> None:
        told, answer = held()
        async with talking(answer) as talk:
            following = POST % 4 + b"body"
            talk.writer.write(POST % 0 + following[:-missing])
            while not talk.connection._is_another():
                await asyncio.sleep(0)
            talk.connection._late()
            assert not talk.connection.transport.is_closing()
            begun = talk.connection._arrival_timer
            told.set()
            assert await talk.reader.readuntil(b"answer")
            assert talk.connection._arrival_timer is not begun
            talk.writer.write(following[-missing:])
            assert await talk.reader.readuntil(b"answer")
            assert talk.connection._arrival_timer is None

    asyncio.run(asyncio.wait_for(ask(), 60))


@pytest.mark.parametrize(
    "following", [b"no HTTP\r\n\r\n", b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n"]
)
def test_what_is_no_request_does_not_take_the_answer_of_the_one_before(following: bytes) -> None:
    async def ask() -> None:
        told, answer = held()
        async with talking(answer) as talk:
            talk.connection.data_received(POST % 0 + following)
            talk.connection.data_received(POST % 0)
            told.set()
            found = await talk.reader.read()
            assert (found[:13], found.partition(b"\r\n\r\n")[2]) == (b"HTTP/1.1 200 ", b"answer")

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_the_body_of_a_request_is_no_head_of_the_next() -> None:
    async def ask() -> None:
        async def answer() -> bytes:
            return b"answer"

        async with talking(answer) as talk:
            body = bytes(2 * connections.HEAD_BYTES)
            talk.connection.data_received(POST % len(body))
            talk.connection.data_received(body + b"GET / HTTP/1.1\r\n")
            assert not talk.connection.transport.is_closing()
            talk.connection.data_received(b"\r\n")
            for _ in range(2):
                assert await talk.reader.readuntil(b"answer")

    asyncio.run(asyncio.wait_for(ask(), 60))
