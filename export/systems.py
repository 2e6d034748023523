"""What an export measures, as systems: the model in PyTorch, and graphs that were made of it."""

from bertline.artifacts.bundle import Cascade
from bertline.bench.systems import System
from bertline.export.conversion.graphs import Graph
from bertline.export.sources import Origin


def pytorch(origin: Origin) -> System:
    """The model as it is, which all graphs are held against."""
    return System("pytorch", "pytorch", origin.folder, origin.tokenizer, origin.settings)


def system(origin: Origin, graph: Graph, cascade: Cascade | None = None) -> System:
    """A graph, to be measured."""
    share = None if cascade is None else cascade.share
    return System(graph.name, graph.runtime, graph.path, origin.tokenizer, origin.settings, share)
