"""Latency and throughput of a bundle by itself and over HTTP, in turns; start and memory. The machine should be quiet.

    python -m bertline.benchmarks.serve bundles/demo

Clients and server share the cores, as they would not in earnest: what HTTP is told to cost is more than it does.
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
from bertline.artifacts import machine
from bertline.artifacts.errors import InputError
from bertline.benchmarks.report import Command
from bertline.benchmarks.serve.clients import Clients, goodput, percentile
from bertline.benchmarks.serve.serving import Serving, serving
from bertline.serve import Model, load

WORDS = "The film takes its time, but the actors are a joy to watch and the ending moved me more than I had expected. "
"""Some 24 tokens; repeated for longer texts."""
ROUNDS = 5
SECONDS = 3.0
CLIENTS = 16
LIGHT = 0.15
"""Of the engine's own rate, what is offered to see what the server's threads cost while little is asked."""
REST = 0.3
"""Seconds between two turns, in which what is queued or spins comes to its end."""


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(bundle: Path) -> None:
    """Print what was measured as JSON, and a line for each round on stderr."""
    click.echo(json.dumps({"machine": machine.describe().model_dump(), **measure(bundle)}, indent=2))


def measure(bundle: Path) -> dict[str, Any]:
    """Start and memory of one answer; then, for a text of a fifth and one of all of the tokens, both ways in turns."""
    manifest = bundles.read(bundle)
    if len(manifest.inputs) > 1:
        raise InputError(
            f"{bundle}: takes {' and '.join(manifest.inputs)}; only bundles that take one text are measured"
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
    """Of a process that answers one text: seconds from its start to its end, and the most memory it held."""
    script = (
        "import sys; from bertline.serve import load\n"
        "print(load(sys.argv[1]).predict(['A film.']))\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    runs = []
    for _ in range(ROUNDS):
        began = perf_counter()
        told = subprocess.run([sys.executable, "-c", script, bundle], check=True, capture_output=True, text=True).stdout
        runs.append((perf_counter() - began, int(told.split()[-1]) / 1024))
    return {"seconds": round(median(one for one, _ in runs), 3), "peak_mb": round(median(mb for _, mb in runs), 1)}


async def turn(model: Model, server: Serving, text: str) -> dict[str, float]:
    """One round: each way with one client, then each with many; then few requests, far apart."""
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
    """Texts a second when there is always one that waits."""
    count, began = 0, perf_counter()
    while perf_counter() < began + SECONDS:
        model.predict([text] * 4 * CLIENTS)
        count += 4 * CLIENTS
    return count / (perf_counter() - began)


if __name__ == "__main__":
    main()
