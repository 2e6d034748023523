"""The systems that an export measures: the model in PyTorch, and the graphs made from it."""

from bertline.artifacts.bundle import Cascade
from bertline.bench.systems import System
from bertline.export.conversion.graphs import Graph
from bertline.export.sources import Origin


def pytorch(origin: Origin) -> System:
    """The original model in PyTorch, which all graphs are compared with."""
    return System("pytorch", "pytorch", origin.folder, origin.tokenizer, origin.settings)


def system(origin: Origin, graph: Graph, cascade: Cascade | None = None) -> System:
    """A graph as a system to measure; `cascade` is given if it is one."""
    share = None if cascade is None else cascade.share
    return System(graph.name, graph.runtime, graph.path, origin.tokenizer, origin.settings, share)
