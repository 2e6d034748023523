"""The fp32 graphs that all candidates are made from: converted, fused, and compared with PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from bertline.artifacts import machine
from bertline.artifacts.bundle import Fidelity
from bertline.artifacts.say import Say
from bertline.bench import compare
from bertline.bench.worker import Worker
from bertline.export.conversion import convert, graphs
from bertline.export.conversion.graphs import Graph
from bertline.export.gates import fidelity
from bertline.export.sources import Origin
from bertline.export.systems import system


@dataclass(frozen=True)
class Exact:
    """Graphs that give PyTorch's answers."""

    fp32: Graph
    fused: Graph | None
    why_not_fused: str | None
    fidelity: Fidelity
    """How close the fp32 graph is to PyTorch."""


def make(origin: Origin, served: Origin, reference: Worker, folder: Path, say: Say) -> Exact:
    """Convert and fuse the model, and compare both graphs with PyTorch.

    Args:
        origin: the model that PyTorch computes.
        served: the model to convert: the same, or with a smaller vocabulary.
        reference: the PyTorch worker.
        folder: where to write the graphs.
        say: receives progress messages.

    Raises:
        GateError: the converted graph differs from the PyTorch model.
    """
    say(f"converting {served.folder} to ONNX")
    fp32 = Graph("fp32", convert.to_onnx(served.folder, served.settings, folder))
    fused = graphs.fuse(fp32, "fp32-fused")
    say("comparing with PyTorch")
    both = [fp32, fused] if fused else [fp32]
    with compare.started([system(served, graph) for graph in both], machine.cores()) as workers:
        proof, faults = fidelity.gates(origin, served, reference, workers)
    if fused is None:
        return Exact(fp32, None, f"ONNX Runtime has no fusion for {origin.config['model_type']}", proof)
    if faults:
        return Exact(fp32, None, f"the fused graph {faults[0]}", proof)
    return Exact(fp32, fused, None, proof)
