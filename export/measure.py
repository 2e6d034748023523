"""Every candidate beside PyTorch: what it answers to the validation texts, and how long it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertline.artifacts import encoder, machine
from bertline.bench import bootstrap, compare
from bertline.bench.compare import Measured
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.export.choose import Trial
from bertline.export.graphs import Graph
from bertline.export.sources import Origin
from bertline.tasks.task import Counts

LENGTHS = (16, 64, 128, 512)
ROUNDS = 3

Say = Callable[[str], None]
"""Takes a line of progress for a person."""


@dataclass(frozen=True)
class Measurements:
    """What was measured on the validation texts."""

    pytorch: Measured
    baseline: float
    """PyTorch's value of the metric."""
    trials: list[Trial]


def measure(origin: Origin, yardstick: Worker, graphs: Sequence[Graph], say: Say) -> Measurements:
    """Let PyTorch (the yardstick) and every candidate answer the validation texts, and time them in turns."""

    def tell(what: str, done: int, steps: int) -> None:
        say(f"[{done}/{steps}] {what}")

    with compare.started(systems(origin, graphs), machine.cores()) as workers:
        pytorch, *candidates = compare.measure([yardstick, *workers], origin.texts, grid(origin), ROUNDS, tell)
    before = counts(origin, pytorch)
    trials = [trial(origin, graph, before, one) for graph, one in zip(graphs, candidates, strict=True)]
    return Measurements(pytorch, value(origin, before), trials)


def counts(origin: Origin, measured: Measured) -> Counts:
    """What the scores of the answers are made of."""
    answered = compare.answers(pytorch(origin), origin.examples, measured.outputs)
    return origin.task.counts(origin.examples, answered)


def value(origin: Origin, counts: Counts) -> float:
    """The metric of what was answered."""
    return float(origin.task.values(counts.sum(axis=0))[origin.metric])


def trial(origin: Origin, graph: Graph, before: Counts, measured: Measured) -> Trial:
    """A candidate's figures, the drop held against PyTorch's answers to the same texts."""
    after = counts(origin, measured)
    return Trial(
        name=graph.name,
        quantized=graph.quantized,
        value=round(value(origin, after), 6),
        drop=round(value(origin, before) - value(origin, after), 6),
        drop_interval=bootstrap.drop_interval(origin.task, origin.metric, before, after),
        size_bytes=measured.size_bytes,
        p50_ms=p50_ms(measured),
    )


def pytorch(origin: Origin) -> System:
    """The model as it is, which all graphs are held against."""
    return System("pytorch", "pytorch", origin.folder, origin.folder, origin.settings)


def systems(origin: Origin, graphs: Sequence[Graph]) -> list[System]:
    """The graphs, to be measured side by side."""
    return [System(graph.name, "onnxruntime", graph.path, origin.folder, origin.settings) for graph in graphs]


def grid(origin: Origin) -> list[tuple[int, int]]:
    """One text at a time, at every usual length that the model's positions hold."""
    longest = encoder.max_tokens(origin.config)
    return [(1, length) for length in LENGTHS if length <= longest] or [(1, longest)]


def p50_ms(measured: Measured) -> dict[str, float]:
    """Medians by BATCHxLENGTH, to the microsecond."""
    return {f"{point.batch}x{point.length}": round(point.p50_ms, 3) for point in measured.grid}
