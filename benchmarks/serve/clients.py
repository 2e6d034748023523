"""Clients that send requests at a fixed rate (open loop) or back to back (closed loop), and what they measured."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

import numpy as np

from bertline.artifacts.errors import InputError


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request."""

    status: int
    """HTTP status, or 0 if the connection broke."""
    began: float
    seconds: float


class Clients:
    """A pool of connections to one server, each used by one request at a time; closed at the end of the block."""

    def __init__(self, url: str, texts: Sequence[str]) -> None:
        place = urlsplit(url)
        self._address = place.hostname, place.port
        body = json.dumps({"inputs": texts[0] if len(texts) == 1 else list(texts)}).encode()
        head = f"POST / HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def ask(self) -> Outcome:
        """Send one request and read its response."""
        began = perf_counter()
        try:
            status = await self._exchange()
        except (OSError, EOFError):
            status = 0
        return Outcome(status, began, perf_counter() - began)

    async def offer(self, rate: float, seconds: float) -> list[Outcome]:
        """Send at least one request, at a rate per second for some seconds, each on time whatever the others do."""
        gc.disable()  # collecting all of pytest's objects takes a third of a second, which would count as latency
        try:
            start, tasks = perf_counter(), []
            for number in range(max(1, int(rate * seconds))):
                if (early := start + number / rate - perf_counter()) > 0:
                    await asyncio.sleep(early)
                tasks.append(asyncio.create_task(self.ask()))
            return list(await asyncio.gather(*tasks))
        finally:
            gc.enable()

    async def loop(self, clients: int, seconds: float) -> list[Outcome]:
        """Run concurrent clients, each sending its next request as soon as it has a response."""
        end = perf_counter() + seconds

        async def one() -> list[Outcome]:
            found = []
            while perf_counter() < end:
                found.append(await self.ask())
            return found

        return [outcome for found in await asyncio.gather(*(one() for _ in range(clients))) for outcome in found]

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *reason: object) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        await asyncio.sleep(0)  # lets the event loop close them

    async def _exchange(self) -> int:
        reader, writer = await self._connection()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        if b"connection: close" not in lines:
            self._idle.append((reader, writer))
        return int(head[9:12])

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An idle connection that the server has not closed, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
        reader, writer = await asyncio.open_connection(*self._address)
        self._writers.append(writer)
        return reader, writer


def goodput(outcomes: Sequence[Outcome]) -> float:
    """Successful responses per second, from the start of the first such request to the end of the last response."""
    good = _with(outcomes, 200)
    return len(good) / (max(one.began + one.seconds for one in good) - min(one.began for one in outcomes))


def percentile(outcomes: Sequence[Outcome], status: int, share: float) -> float:
    """A quantile of the latency, in seconds, of the requests that ended with a status."""
    return float(np.quantile([one.seconds for one in _with(outcomes, status)], share))


def _with(outcomes: Sequence[Outcome], status: int) -> list[Outcome]:
    """The outcomes with a status; at least one.

    Raises:
        InputError: there is none.
    """
    found = [one for one in outcomes if one.status == status]
    if not found:
        counts = ", ".join(f"{count} with {other}" for other, count in Counter(one.status for one in outcomes).items())
        raise InputError(f"no request was answered with {status}, but {counts}; try a faster bundle")
    return found
