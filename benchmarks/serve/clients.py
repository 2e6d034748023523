"""Clients that ask at a fixed rate, whatever becomes of the answers, or one after the other; and what they saw."""

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
    """Of one request: 0 for a connection that broke."""

    status: int
    began: float
    seconds: float


class Clients:
    """A pool of connections to one server, each used by one request at a time; closed as the block is left."""

    def __init__(self, url: str, texts: Sequence[str]) -> None:
        place = urlsplit(url)
        self._address = place.hostname, place.port
        body = json.dumps({"inputs": texts[0] if len(texts) == 1 else list(texts)}).encode()
        head = f"POST / HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def ask(self) -> Outcome:
        """One request and its answer."""
        began = perf_counter()
        try:
            status = await self._exchange()
        except (OSError, EOFError):
            status = 0
        return Outcome(status, began, perf_counter() - began)

    async def offer(self, rate: float, seconds: float) -> list[Outcome]:
        """Requests at a rate a second for a time, one at least, begun on time however long the others take."""
        gc.disable()  # a collection of all of pytest takes a third of a second, which is not the server's
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
        """As many clients, each asking again as soon as it was answered."""
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
        await asyncio.sleep(0)  # in which they are closed

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
        """An idle one that the server has not closed, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
        reader, writer = await asyncio.open_connection(*self._address)
        self._writers.append(writer)
        return reader, writer


def goodput(outcomes: Sequence[Outcome]) -> float:
    """Answers a second, from the first request's beginning to the last answer's end."""
    good = _with(outcomes, 200)
    return len(good) / (max(one.began + one.seconds for one in good) - min(one.began for one in outcomes))


def percentile(outcomes: Sequence[Outcome], status: int, share: float) -> float:
    """Of the seconds of those with a status."""
    return float(np.quantile([one.seconds for one in _with(outcomes, status)], share))


def _with(outcomes: Sequence[Outcome], status: int) -> list[Outcome]:
    """Those with a status, one at least."""
    found = [one for one in outcomes if one.status == status]
    if not found:
        counts = ", ".join(f"{count} with {other}" for other, count in Counter(one.status for one in outcomes).items())
        raise InputError(f"no request was answered with {status}, but {counts}; a quicker bundle may be")
    return found
