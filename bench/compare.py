"""Measures systems side by side: with the same texts, token ids and threads, each in a process of its own.

Systems are timed in turns (A, B, C, A, B, C, …), so that a machine that slows down for a while slows all of them, and
one at a time: the others are blocked on a pipe and use no CPU (see `worker`). A turn is one point of the grid: with the
whole grid as a turn, eight copies of one model differed three times as much. Before each repetition a system computes
another point, untimed, since a server rarely gets two texts of the same length in a row. Percentiles are over all
repetitions of all rounds. No judgment is made here: that is up to the reader, or to `export`.

The latency of a cascade depends on the text, so both of its paths are timed separately: its median is the mean of their
medians, weighted by the share of texts that take each path, and the other percentiles are those of the mixture.

Cost: every system scores every text once, and takes about 0.3 s for each point of the grid in each round, or the time
of three repetitions if that is longer; the first repetition is a warm-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import geometric_mean
from typing import Any

import numpy as np

from bertline.artifacts import machine
from bertline.artifacts.say import Say
from bertline.bench import inputs
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.tasks import bootstrap, catalog
from bertline.tasks.task import Answer, Example, Output, Task
from bertline.tasks.tokens import Batch, Text

GRID = ((1, 16), (1, 64), (1, 128), (1, 512), (32, 128))


@dataclass(frozen=True)
class Point:
    """The latency at one (batch, length), in milliseconds per batch, and texts per second at the median."""

    batch: int
    length: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    texts_per_second: float
    repetitions: int
    """The number of timings behind the percentiles; for a cascade, of the path that has fewer."""


@dataclass(frozen=True)
class Measured:
    """The measurements of one system."""

    name: str
    outputs: list[Output]
    """One for each window, in the order of the texts."""
    grid: list[Point]
    load_seconds: float
    peak_rss_bytes: int
    size_bytes: int
    asked_share: float | None = None
    """For a cascade, the share of these texts that the larger model answered."""


def default_grid(systems: Sequence[System]) -> list[tuple[int, int]]:
    """The usual points (batch, length) of texts that no system cuts, or else one text of their maximum length."""
    longest = min(system.settings.tokens.max_length for system in systems)
    return [(batch, length) for batch, length in GRID if length <= longest] or [(1, longest)]


@contextmanager
def started(systems: Sequence[System], threads: int) -> Iterator[list[Worker]]:
    """Start a worker for each system; their processes are ended on exit."""
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(system, threads)) for system in systems]


def time(
    workers: Sequence[Worker],
    texts: Sequence[Text],
    grid: Sequence[tuple[int, int]],
    rounds: int,
    say: Say = lambda line: None,
) -> list[list[Point]]:
    """Time every system at every point (batch, length) of the grid in each round, in turns.

    `say` receives each step. Systems with the same tokenizer folder get the same token ids.

    Raises:
        BertlineError, InputError: a system failed; the message names it.
    """
    steps = _Steps(rounds * len(grid), say)
    _prepare(workers)
    timed = _time_in_turns(workers, _batches(workers, texts, grid), grid, rounds, steps)
    return [_points(grid, one, worker.system.share) for worker, one in zip(workers, timed, strict=True)]


def measure(
    workers: Sequence[Worker],
    texts: Sequence[Text],
    grid: Sequence[tuple[int, int]],
    rounds: int,
    say: Say = lambda line: None,
) -> list[Measured]:
    """Load and time every system as `time` does, and compute its outputs for every text.

    `Worker` defines load time and memory.

    Raises:
        BertlineError, InputError: a system failed; the message names it.
    """
    steps = _Steps(2 * len(workers) + rounds * len(grid), say)
    batches = _batches(workers, texts, grid)
    loads = []
    _prepare(workers)
    for worker, own in zip(workers, batches, strict=True):
        loads.append(worker.load(own[0]))
        steps.did(f"{worker.system.name}: loaded")
    measured = []
    turns = _time_in_turns(workers, batches, grid, rounds, steps)
    for worker, load, timed in zip(workers, loads, turns, strict=True):
        system, memory = worker.system, worker.peak_rss_bytes()  # read first: only what is timed counts
        found = worker.outputs(texts)
        share = None if system.share is None else worker.asked_share()  # measured on these texts
        points, size = _points(grid, timed, share), system.size_bytes
        measured.append(Measured(system.name, found, points, load, memory, size, share))
        steps.did(f"{system.name}: {len(texts):,} texts scored")
    return measured


def _points(grid: Sequence[tuple[int, int]], timed: list[list[list[float]]], share: float | None) -> list[Point]:
    """The figures at each point.

    Args:
        grid: the points (batch, length).
        timed: the seconds of each repetition, by point and path.
        share: the share of texts that a cascade's larger model answers; None if it is no cascade.
    """
    return [
        point(*at, *ways) if share is None else mixed(*at, share, *ways) for at, ways in zip(grid, timed, strict=True)
    ]


def _prepare(workers: Sequence[Worker]) -> None:
    """Wait until all have imported their libraries, which would disturb those that are timed."""
    for worker in workers:
        worker.prepare()


def _batches(workers: Sequence[Worker], texts: Sequence[Text], grid: Sequence[tuple[int, int]]) -> list[list[Batch]]:
    """For each system, a batch for each point of the grid."""
    made = {tokenizer: inputs.make(tokenizer, texts, grid) for tokenizer in {one.system.tokenizer for one in workers}}
    return [made[worker.system.tokenizer] for worker in workers]


def _time_in_turns(
    workers: Sequence[Worker],
    batches: Sequence[Sequence[Batch]],
    grid: Sequence[tuple[int, int]],
    rounds: int,
    steps: _Steps,
) -> list[list[list[list[float]]]]:
    """For each system, the seconds of each repetition, by point of the grid and path."""
    seconds: list[list[list[list[float]]]] = [[[[] for _ in range(worker.ways)] for _ in grid] for worker in workers]
    for turn in range(rounds):
        for place, (batch, length) in enumerate(grid):
            for worker, own, points in zip(workers, batches, seconds, strict=True):
                between = own[_other_point(grid, place)] if len(grid) > 1 else None
                for so_far, more in zip(points[place], worker.time(own[place], between), strict=True):
                    so_far += more
            steps.did(f"round {turn + 1} of {rounds}: {batch} x {length} tokens timed")
    return seconds


def _other_point(grid: Sequence[tuple[int, int]], place: int) -> int:
    """The index of the smallest other point in a grid of two or more."""
    others = [other for other in range(len(grid)) if other != place]
    return min(others, key=lambda other: grid[other][0] * grid[other][1])


def point(batch: int, length: int, seconds: Sequence[float]) -> Point:
    """The figures at one (batch, length), from the seconds of all its repetitions."""
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)) * 1000
    return Point(batch, length, float(p50), float(p90), float(p99), float(batch / p50 * 1000), len(seconds))


def mixed(batch: int, length: int, share: float, alone: Sequence[float], asked: Sequence[float]) -> Point:
    """The figures of a cascade at one (batch, length).

    Args:
        batch, length: the point.
        share: the share of texts that go to the larger model; a single one makes it compute the whole batch.
        alone, asked: seconds of repetitions in which the student is sure of every text, and of none.
    """
    share = 1 - (1 - share) ** batch
    p50 = 1000 * float((1 - share) * np.median(alone) + share * np.median(asked))
    weights = np.repeat([(1 - share) / len(alone), share / len(asked)], [len(alone), len(asked)])
    both = np.concatenate([alone, asked])
    p90, p99 = np.quantile(both, (0.9, 0.99), weights=weights, method="inverted_cdf") * 1000
    fewer = min(len(alone), len(asked))
    return Point(batch, length, p50, max(p50, float(p90)), max(p50, float(p99)), batch / p50 * 1000, fewer)


def geometric_mean_speedup(fast: Measured, slow: Measured) -> float:
    """How many times faster `fast` is than `slow` for single texts: the geometric mean of the ratios at all lengths."""
    slow_ms = {point.length: point.p50_ms for point in slow.grid if point.batch == 1}
    ratios = [slow_ms[point.length] / point.p50_ms for point in fast.grid if point.batch == 1]
    return geometric_mean(ratios)


def bench(
    systems: Sequence[System],
    examples: Sequence[Example],
    grid: Sequence[tuple[int, int]],
    rounds: int,
    threads: int,
    say: Say = lambda line: None,
    metric: str | None = None,
) -> dict[str, Any]:
    """Measure and score systems, as `bertline bench` does; all are compared with the first.

    Args:
        systems: what is compared.
        examples: labelled examples.
        grid: (batch, length) of what is timed.
        rounds: in each of which every system is timed once.
        threads: of each system.
        say: receives lines of progress.
        metric: a score to give first, before the usual ones of the task.

    Returns:
        What `bertline bench --json` prints; plain values only.
    """
    with started(systems, threads) as workers:
        measured = measure(workers, [example.texts for example in examples], grid, rounds, say)
    answered = [answers(system, examples, each.outputs) for system, each in zip(systems, measured, strict=True)]
    return summarize(catalog.make(systems[0].settings), measured, examples, answered, rounds, threads, metric)


def answers(system: System, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Answer]:
    """A system's answers to the texts of examples, decoded from its outputs."""
    task, texts = catalog.make(system.settings), [example.texts for example in examples]
    return task.decode(texts, task.tokenizer(system.tokenizer).encode(texts), outputs)


def summarize(
    task: Task,
    measured: Sequence[Measured],
    examples: Sequence[Example],
    answered: Sequence[list[Answer]],
    rounds: int,
    threads: int,
    metric: str | None = None,
) -> dict[str, Any]:
    """The result that `bench` returns: all systems scored, and compared with the first."""
    first, metrics = measured[0], list(task.settings.shown)
    if metric is not None:
        metrics = [metric, *(name for name in metrics if name != metric)]
    return {
        "machine": machine.describe().model_dump(mode="json"),
        "task": task.settings.task,
        "metrics": metrics,
        "systems": [
            _row(task, metrics, each, examples, own, answered[0]) for each, own in zip(measured, answered, strict=True)
        ],
        "speedup": {f"{each.name} over {first.name}": geometric_mean_speedup(each, first) for each in measured[1:]},
        "threads": threads,
        "texts": len(examples),
        "rounds": rounds,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": machine.versions("bertline", "onnxruntime", "torch", "transformers", "tokenizers", "numpy"),
    }


def _row(
    task: Task,
    metrics: Sequence[str],
    each: Measured,
    examples: Sequence[Example],
    own: list[Answer],
    first: list[Answer],
) -> dict[str, Any]:
    counts, main = bootstrap.count_units(task, examples, own), metrics[0]
    scores = task.values(counts.sum(axis=0))
    loss = bootstrap.worst_case_loss(task, main, examples, counts)
    return {
        "name": each.name,
        "grid": [asdict(point) for point in each.grid],
        **{metric: float(scores[metric]) for metric in metrics},
        "interval": list(bootstrap.interval(task, main, counts, loss)),
        "agreement": task.agreement(own, first),
        "size_bytes": each.size_bytes,
        "peak_rss_bytes": each.peak_rss_bytes,
        "load_seconds": each.load_seconds,
        "asked_share": each.asked_share,
    }


class _Steps:
    """Counts the steps, and reports each."""

    def __init__(self, total: int, say: Say) -> None:
        self.done, self.total, self.say = 0, total, say

    def did(self, what: str) -> None:
        self.done += 1
        self.say(f"[{self.done}/{self.total}] {what}")
