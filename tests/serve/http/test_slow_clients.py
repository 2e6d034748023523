"""Clients that hold a connection and do nothing with it are sent away; the others do not notice."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import uvicorn
from uvicorn.server import ServerState

from bertline.benchmarks.serve.clients import Clients, percentile
from bertline.benchmarks.serve.serving import Serving, serving
from bertline.serve.http import connections
from bertline.serve.http.connections import Connection
from tests.waiting import wait_for

pytestmark = pytest.mark.quiet
LIMIT = 10.0
COMING = 4.0
"""Seconds in which they all come, which is work; then healthy clients are watched, while all of them are there."""
RATE = 6
"""Texts a second that healthy clients offer, half of what one core answers."""
HEAD = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
BODY = b'{"inputs": "a good film"}'
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"
HASTY = """
from bertline.launch.command import main
from bertline.serve.http import connections

connections.IDLE_SECONDS = 7
main()
"""
"""A server that does not wait as long for another request as it would in earnest."""
BALANCERS_SECONDS = 60
"""That those of AWS and ingress-nginx keep an idle connection, unless they are told otherwise."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def idle(streams: Streams) -> None:
    """Connects, and that is all."""


async def head_by_the_byte(streams: Streams) -> None:
    await _by_the_byte(streams[1], HEAD % len(BODY))


async def body_by_the_byte(streams: Streams) -> None:
    streams[1].write(HEAD % len(BODY))
    await _by_the_byte(streams[1], BODY)


async def body_after_a_refusal(streams: Streams) -> None:
    """There is no such place, as the head tells."""
    streams[1].write((HEAD % len(BODY)).replace(b"POST /", b"POST /nothing"))
    await asyncio.sleep(1)
    streams[1].write(BODY)


async def blank_lines(streams: Streams) -> None:
    """Which HTTP lets come before a request."""
    await _by_the_byte(streams[1], b"\r\n" * 30)


async def idle_after_an_answer(streams: Streams) -> None:
    streams[1].write(LIVE)


async def never_reads(streams: Streams) -> None:
    """Asks for more than buffers hold, then asks on, which is how it learns of the end."""
    streams[1].write(b"GET /openapi.json HTTP/1.1\r\nhost: here\r\n\r\n" * 20)
    while not streams[1].is_closing():
        streams[1].write(LIVE)
        await asyncio.sleep(0.5)


async def _by_the_byte(writer: asyncio.StreamWriter, content: bytes) -> None:
    for number in range(len(content)):
        writer.write(content[number : number + 1])
        await asyncio.sleep(1)


KINDS = [
    idle, head_by_the_byte, body_by_the_byte, body_after_a_refusal, blank_lines, idle_after_an_answer, never_reads
]  # fmt: skip


async def closed_after(url: str, behave: Callable[[Streams], Awaitable[None]]) -> float:
    """Seconds until the server ended the connection of a client that behaves like this."""
    place = urlsplit(url)
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect((place.hostname, place.port))
    reader, writer = await asyncio.open_connection(sock=small, limit=2048)
    began = perf_counter()
    behaving = asyncio.ensure_future(behave((reader, writer)))
    try:
        if behave is never_reads:
            await asyncio.wait((behaving,), timeout=3 * LIMIT)
        else:
            answer = await asyncio.wait_for(_all_of(reader), 3 * LIMIT)
            if behave in (head_by_the_byte, body_by_the_byte):
                assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
                assert answer.endswith(b'{"error": "the request did not arrive whole in 6 s"}')
        return perf_counter() - began
    finally:
        behaving.cancel()
        with suppress(ConnectionError, asyncio.CancelledError, TimeoutError, asyncio.TimeoutError):
            await behaving
        writer.transport.abort()


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    found = b""
    with suppress(ConnectionError):
        while chunk := await reader.read(4096):
            found += chunk
    return found


async def _coming(url: str, behave: Callable[[Streams], Awaitable[None]], place: float) -> float:
    await asyncio.sleep(place)
    return await closed_after(url, behave)


async def crowd(
    server: Serving, kinds: Sequence[Callable[[Streams], Awaitable[None]]], each: int
) -> tuple[float, float]:
    """All kinds at once, beside clients that ask and listen: their p99 before and while all are there, in ms."""
    async with Clients(server.url, ["the film was good " * 8]) as clients:
        await clients.loop(1, 0.5)
        before = await clients.offer(RATE, 1 if each < 10 else 10)
        places = [number * COMING / each for number in range(each)]
        crowds = [asyncio.ensure_future(_coming(server.url, kind, place)) for kind in kinds for place in places]
        await asyncio.sleep(COMING)
        during = await clients.offer(RATE, 4)
        seconds = await asyncio.gather(*crowds)
    for number, kind in enumerate(kinds):
        print(f"{kind.__name__}: closed after {max(seconds[number * each : (number + 1) * each]):.1f} s at most")
    assert max(seconds) < (LIMIT if each > 10 else 2 * LIMIT)
    assert {one.status for one in (*before, *during)} == {200}
    usual, crowded = (percentile(each, 200, 0.99) * 1000 for each in (before, during))
    print(f"p99 of healthy clients: {usual:.1f} ms before, {crowded:.1f} ms during")
    return usual, crowded


def test_a_connection_is_kept_for_longer_than_balancers_keep_it() -> None:
    """Else they send a request as it is closed, and tell their client 502."""
    assert connections.IDLE_SECONDS > BALANCERS_SECONDS


@pytest.mark.parametrize(("each", "rounds"), [(3, 1), pytest.param(200, 5, marks=pytest.mark.load)])
def test_all_of_them_are_closed_in_time(slow_bundle: Path, tmp_path: Path, each: int, rounds: int) -> None:
    hasty = tmp_path / "hasty.py"
    hasty.write_text(HASTY)
    # the other core is for connections: what they take of it is to be seen, not who computes beside whom
    with serving(slow_bundle, "--threads", "1", "--limit", "seconds=60", script=hasty) as server:
        found = [asyncio.run(crowd(server, KINDS, each)) for _ in range(rounds)]
        assert not server.lines("the server failed on a request")
        assert server.end() == 0
    if rounds > 1:  # two milliseconds are the measurement's own; a machine has its moments, whoever is there
        assert median((crowded - 2) / usual for usual, crowded in found) < 1.2


def test_an_answer_that_nobody_reads_ends_its_connection(sealed: Path) -> None:
    """All of it is on the client's side or the system's own: the server itself has nothing left to write."""
    with serving(sealed) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", urlsplit(server.url).port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: here\r\n\r\n")
        wait_for(lambda: _established(server) == 1)
        wait_for(lambda: _established(server) == 0)


def _established(server: Serving) -> int:
    """Connections that the server holds."""
    return sum(one.status == "ESTABLISHED" for one in psutil.Process(server.process.pid).net_connections())


def test_a_connection_that_was_reset_leaves_no_timer() -> None:
    """It would hold all that was answered for as long as an idle connection is kept."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async def reset() -> Connection:
        config = uvicorn.Config(application, http=Connection, lifespan="off", log_config=None)
        config.load()
        made: list[Connection] = []

        def make() -> Connection:
            made.append(Connection(config, ServerState(), {}))
            return made[0]

        listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(LIVE)
        await reader.readuntil(b"\r\n\r\n")
        assert made[0].timeout_keep_alive_task is not None
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        while made[0] in made[0].connections:
            await asyncio.sleep(0)
        listening.close()
        return made[0]

    assert asyncio.run(asyncio.wait_for(reset(), 60)).timeout_keep_alive_task is None
