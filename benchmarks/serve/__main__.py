"""Latency and throughput of a bundle in-process and over HTTP, in turns, and its start-up time and memory.

    python -m bertline.benchmarks.serve bundles/demo

The machine should be otherwise idle. Clients and server share the cores, unlike in production, so the measured cost of
HTTP is higher than the real one.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import click

from bertline.artifacts import bundle as bundles
from bertline.artifacts.errors import InputError
from bertline.benchmarks.report import Command, dated
from bertline.benchmarks.serve.clients import Clients, goodput, percentile
from bertline.benchmarks.serve.serving import Serving, serving
from bertline.serve import Model, load

WORDS = "The film takes its time, but the actors are a joy to watch and the ending moved me more than I had expected. "
"""About 24 tokens; repeated for longer texts."""
ROUNDS = 5
SECONDS = 3.0
CLIENTS = 16
LIGHT = 0.15
"""The light load, as a share of the engine's throughput; it shows what the server's threads cost when nearly idle."""
REST = 0.3
"""Seconds between two measurements, for queues to drain and spinning threads to sleep."""


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(bundle: Path) -> None:
    """Print the measurements as JSON, and a line for each round on stderr."""
    click.echo(json.dumps(dated(measure(bundle)), indent=2))


def measure(bundle: Path) -> dict[str, Any]:
    """Measure start-up and memory, then both ways in turns, for texts of a fifth and of all of the maximum length."""
    manifest = bundles.read(bundle)
    if len(manifest.inputs) > 1:
        raise InputError(
            f"{bundle}: takes {' and '.join(manifest.inputs)}; only bundles that take a single text can be measured"
        )
    tokens = manifest.tokens.max_length
    found: dict[str, Any] = {"start": start(bundle)}
    with load(bundle) as model, serving(bundle) as server:
        model.prepare()
        for share in (0.2, 1.0):
            text = WORDS * max(1, round(share * tokens / 24))
            rounds = [asyncio.run(turn(model, server, text)) for _ in range(ROUNDS)]
            found[f"{len(text)} characters"] = {
                name: round(median(one[name] for one in rounds), 3) for name in rounds[0]
            }
        found["server_rss_bytes"] = server.rss_bytes()
    return found


def start(bundle: Path) -> dict[str, float]:
    """For a process that answers one text: seconds from its start to its end, and its peak memory."""
    script = (
        "import sys; from bertline.serve import load\n"
        "print(load(sys.argv[1]).predict(['A film.']))\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    runs = []
    for _ in range(ROUNDS):
        began = perf_counter()
        done = subprocess.run([sys.executable, "-c", script, bundle], check=True, capture_output=True, text=True)
        runs.append((perf_counter() - began, int(done.stdout.split()[-1]) / 1024))
    return {"seconds": round(median(one for one, _ in runs), 3), "peak_mb": round(median(mb for _, mb in runs), 1)}


async def turn(model: Model, server: Serving, text: str) -> dict[str, float]:
    """One round: each way with one client, then each with many; then a light load over HTTP."""
    async with Clients(server.url, [text]) as clients:
        engine_ms = _median_ms(lambda: model.predict([text]))
        sleep(REST)
        http_ms = percentile(await clients.loop(1, SECONDS), 200, 0.5) * 1000
        sleep(REST)
        engine_rate = _rate(model, text)
        sleep(REST)
        http_rate = goodput(await clients.loop(CLIENTS, SECONDS))
        sleep(REST)
        before = server.cpu_seconds()
        light = await clients.offer(LIGHT * engine_rate, SECONDS)
        cpu_ms = (server.cpu_seconds() - before) / len(light) * 1000
        sleep(REST)
    figures = {
        "engine_p50_ms": engine_ms, "http_p50_ms": http_ms, "http_adds_ms": http_ms - engine_ms,
        "engine_texts_per_second": engine_rate, f"http_{CLIENTS}_clients_texts_per_second": http_rate,
        "http_over_engine": http_rate / engine_rate,
        "light_p50_ms": percentile(light, 200, 0.5) * 1000, "light_p90_ms": percentile(light, 200, 0.9) * 1000,
        "light_cpu_ms": cpu_ms,
    }  # fmt: skip
    click.echo("  ".join(f"{name} {value:.2f}" for name, value in figures.items()), err=True)
    return figures


def _median_ms(run: Callable[[], object]) -> float:
    seconds, end = [], perf_counter() + SECONDS
    while perf_counter() < end:
        began = perf_counter()
        run()
        seconds.append(perf_counter() - began)
    return median(seconds) * 1000


def _rate(model: Model, text: str) -> float:
    """Texts per second when the queue is never empty."""
    count, began = 0, perf_counter()
    while perf_counter() < began + SECONDS:
        model.predict([text] * 4 * CLIENTS)
        count += 4 * CLIENTS
    return count / (perf_counter() - began)


if __name__ == "__main__":
    main()
