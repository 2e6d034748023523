"""Memory stays flat over any number of requests; a server that leaks is caught by the same check."""

import asyncio
from pathlib import Path

import pytest

from bertline.benchmarks.serve.clients import Clients
from bertline.benchmarks.serve.serving import Serving, serving

GROWTH = 0.05
LEAK = """
import sys
from bertline.serve.http.answering import Answering
from bertline.launch.command import main
kept, answer = [], Answering.answer
async def leaking(self, request, entry, texts):
    kept.append(bytearray(1 << 12))
    return await answer(self, request, entry, texts)
Answering.answer = leaking
main(sys.argv[1:])
"""


async def growth(server: Serving, requests: int) -> float:
    """By how much of itself the server grew over so many requests, after a tenth of them."""
    async with Clients(server.url, ["the film was good"]) as clients:
        await _ask(clients, requests // 10)
        before = server.rss_bytes()
        await _ask(clients, requests)
    grown = server.rss_bytes() / before - 1
    print(f"{requests:,} requests: {before / 1e6:.0f} MB and {grown:+.1%}")
    return grown


async def _ask(clients: Clients, count: int) -> None:
    async def some(count: int) -> None:
        for _ in range(count):
            assert (await clients.ask()).status == 200

    await asyncio.gather(*(some(count // 4) for _ in range(4)))


@pytest.mark.parametrize("requests", [4_000, pytest.param(200_000, marks=pytest.mark.load)])
def test_requests_leave_nothing_behind(tiny_bundle: Path, requests: int) -> None:
    with serving(tiny_bundle, "--threads", "2") as server:
        assert asyncio.run(growth(server, requests)) < GROWTH


def test_a_leak_is_caught(tiny_bundle: Path, tmp_path: Path) -> None:
    script = tmp_path / "leaking.py"
    script.write_text(LEAK)
    with serving(tiny_bundle, "--threads", "2", script=script) as server:
        assert asyncio.run(growth(server, 4_000)) > GROWTH
