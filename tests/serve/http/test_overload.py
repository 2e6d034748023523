"""More is asked than can be answered: 200 or 503, in time, and all is well again when less is asked."""

import asyncio
from pathlib import Path

import pytest

from bertline.launch.benchmarks.serve.clients import Clients, goodput, percentile
from bertline.launch.benchmarks.serve.serving import serving

pytestmark = pytest.mark.quiet
DEADLINE = 2.0
TEXT = "the film was good and the actors were great " * 4


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [(2, 0.6), pytest.param(30, 0.9, marks=pytest.mark.load)],  # the short one has its machine to share
)
def test_up_to_ten_times_its_capacity(slow_bundle: Path, seconds: float, kept: float) -> None:
    """The goodput that is kept, of the best."""
    with serving(slow_bundle, "--limit", f"seconds={DEADLINE}") as server:
        asyncio.run(_ask(server.url, seconds, kept))
        assert server.end() == 0


async def _ask(url: str, seconds: float, kept: float) -> None:
    async with Clients(url, [TEXT]) as clients:
        await _overload(clients, seconds, kept)


async def _overload(clients: Clients, seconds: float, kept: float) -> None:
    await clients.loop(2, 1)
    capacity = goodput(await clients.loop(4, 2))
    usual = percentile(await clients.offer(capacity / 2, 1.5), 200, 0.5)
    goodputs = []
    for times in (1, 2, 4, 10):
        outcomes = await clients.offer(times * capacity, seconds)
        assert {one.status for one in outcomes} <= {200, 503}
        assert percentile(outcomes, 200, 0.99) < DEADLINE
        goodputs.append(goodput(outcomes))
        rejected = [one for one in outcomes if one.status == 503]
        print(f"{times} x {capacity:.0f}/s: {goodputs[-1]:.1f}/s, p99 {percentile(outcomes, 200, 0.99):.2f} s")
        if times > 1:
            print(f"  {len(rejected)} rejected, p99 {percentile(rejected, 503, 0.99) * 1000:.1f} ms")
            assert percentile(rejected, 503, 0.99) < 0.05
    assert goodputs[-1] >= kept * max(goodputs)
    after = await clients.offer(capacity / 2, 6.5)
    assert {one.status for one in after} <= {200, 503}
    late = [one for one in after if one.began > after[0].began + 5]
    assert {one.status for one in late} == {200}
    print(f"p50 before {usual * 1000:.1f} ms, 5 s after {percentile(late, 200, 0.5) * 1000:.1f} ms")
    assert percentile(late, 200, 0.5) < 3 * usual
