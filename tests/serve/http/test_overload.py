"""More is asked than can be answered: 200 or 503, in time, and all is well again when less is asked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from bertline.benchmarks.serve.clients import Clients, Outcome, goodput, percentile
from bertline.benchmarks.serve.serving import serving

pytestmark = pytest.mark.quiet
DEADLINE = 2.0
TIMES = 1, 2, 4, 10
TEXT = "the film was good and the actors were great " * 4


KEPT = 0.9
"""Of the best goodput, when ten times as much is asked as can be answered."""


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.load)])
def test_up_to_ten_times_its_capacity(slow_bundle: Path, seconds: float) -> None:
    """What is answered and what is turned away; how fast only where there is time to measure it."""
    with serving(slow_bundle, "--threads", "2", "--limit", f"seconds={DEADLINE}") as server:
        asyncio.run(_ask(server.url, seconds))
        assert server.end() == 0


async def _ask(url: str, seconds: float) -> None:
    async with Clients(url, [TEXT]) as clients:
        await clients.loop(2, 1)
        capacity = goodput(await clients.loop(4, 2))
        usual = await clients.offer(capacity / 2, 1.5)
        crowds = [await clients.offer(times * capacity, seconds) for times in TIMES]
        after = [await clients.ask() for _ in range(10)] if seconds < 10 else await clients.offer(capacity / 2, 6.5)
    late = [one for one in after if seconds < 10 or one.began > after[0].began + 5]
    assert all({one.status for one in outcomes} <= {200, 503} for outcomes in (*crowds, after))
    assert {one.status for one in crowds[-1]} == {200, 503}
    assert {one.status for one in late} == {200}
    if seconds > 10:
        _check(capacity, crowds)
        before, later = (percentile(outcomes, 200, 0.5) for outcomes in (usual, late))
        print(f"p50 before {before * 1000:.1f} ms, 5 s after {later * 1000:.1f} ms")
        assert later < 3 * before


def _check(capacity: float, crowds: Sequence[Sequence[Outcome]]) -> None:
    goodputs = [goodput(outcomes) for outcomes in crowds]
    for times, outcomes, good in zip(TIMES, crowds, goodputs, strict=True):
        p99 = percentile(outcomes, 200, 0.99)
        print(f"{times} x {capacity:.0f}/s: {good:.1f}/s, p99 {p99:.2f} s")
        assert p99 < DEADLINE
        if times > 1:
            rejected = percentile(outcomes, 503, 0.99)
            print(f"  {sum(one.status == 503 for one in outcomes)} rejected, p99 {rejected * 1000:.1f} ms")
            assert rejected < 0.05
    assert goodputs[-1] >= KEPT * max(goodputs)
