"""Every candidate beside PyTorch: what it answers to the validation texts, and how long it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertline.artifacts import encoder, machine
from bertline.bench import compare
from bertline.bench.compare import Measured
from bertline.bench.systems import System
from bertline.export import drop
from bertline.export.choose import Trial
from bertline.export.graphs import Graph
from bertline.export.sources import Origin
from bertline.tasks import text_classification

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


def measure(origin: Origin, graphs: Sequence[Graph], say: Say) -> Measurements:
    """Let PyTorch and every candidate answer the validation texts, and time them in turns."""

    def tell(what: str, done: int, steps: int) -> None:
        say(f"[{done}/{steps}] {what}")

    pytorch, *candidates = compare.measure(
        systems(origin, graphs), origin.texts, grid(origin), ROUNDS, machine.cores(), tell
    )
    baseline = value(origin, pytorch)
    trials = [trial(origin, graph, pytorch, one, baseline) for graph, one in zip(graphs, candidates, strict=True)]
    return Measurements(pytorch, baseline, trials)


def value(origin: Origin, measured: Measured) -> float:
    """The metric of what was answered."""
    return float(text_classification.score(measured.logits, origin.gold, origin.labels)[origin.metric])


def trial(origin: Origin, graph: Graph, pytorch: Measured, measured: Measured, baseline: float) -> Trial:
    """A candidate's figures, the drop held against PyTorch's answers to the same texts."""
    before, after = (each.logits.argmax(axis=1) for each in (pytorch, measured))
    return Trial(
        name=graph.name,
        quantized=graph.quantized,
        value=value(origin, measured),
        drop=baseline - value(origin, measured),
        drop_interval=drop.interval(origin.metric, origin.gold, before, after, len(origin.labels)),
        size_bytes=measured.size_bytes,
        p50_ms=p50_ms(measured),
    )


def systems(origin: Origin, graphs: Sequence[Graph]) -> list[System]:
    """PyTorch and the graphs, to be measured side by side."""
    shared = (origin.folder, origin.max_length, origin.labels)
    return [
        System("pytorch", "pytorch", origin.folder, *shared),
        *(System(graph.name, "onnxruntime", graph.path, *shared) for graph in graphs),
    ]


def grid(origin: Origin) -> list[tuple[int, int]]:
    """One text at a time, at every usual length that the model's positions hold."""
    longest = encoder.max_tokens(origin.config)
    return [(1, length) for length in LENGTHS if length <= longest] or [(1, longest)]


def p50_ms(measured: Measured) -> dict[str, float]:
    """Medians by BATCHxLENGTH, to the microsecond."""
    return {f"{point.batch}x{point.length}": round(point.p50_ms, 3) for point in measured.grid}
