"""The fp32 graphs that all candidates are made from: converted, fused, and compared with PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from bertline.artifacts import machine
from bertline.artifacts.bundle import Fidelity
from bertline.artifacts.errors import FULL
from bertline.artifacts.say import Say
from bertline.bench import compare
from bertline.export.conversion import convert, graphs
from bertline.export.conversion.graphs import Graph
from bertline.export.gates import fidelity
from bertline.export.gates.fidelity import Expected
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


def make(served: Origin, expected: Expected, folder: Path, say: Say) -> Exact:
    """Convert and fuse the model, and compare both graphs with PyTorch.

    Args:
        served: the model to convert.
        expected: what PyTorch was asked.
        folder: where to write the graphs.
        say: receives progress messages.

    Raises:
        GateError: the converted graph differs from the PyTorch model.
    """
    say(f"converting {served.folder} to ONNX")
    fp32 = Graph("fp32", convert.to_onnx(served.folder, served.settings, folder))
    fused, why_not = _fused(fp32, served.config["model_type"])
    say("comparing with PyTorch")
    both = [fp32, fused] if fused else [fp32]
    with compare.started([system(served, graph) for graph in both], machine.cores()) as workers:
        proof, faults = fidelity.gates(expected, workers)
    if faults:
        return Exact(fp32, None, f"the fused graph {faults[0]}", proof)
    return Exact(fp32, fused, why_not, proof)


def _fused(fp32: Graph, model_type: str) -> tuple[Graph | None, str | None]:
    """The fused graph, or why there is none.

    Raises:
        OSError: the disk is full.
    """
    try:
        fused = graphs.fuse(fp32, "fp32-fused")
    except Exception as error:  # ONNX Runtime's fusions assert that a graph looks as they know it
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        return None, f"ONNX Runtime's fusion of {model_type} failed ({type(error).__name__}: {error!s:.200})"
    return fused, None if fused else f"ONNX Runtime has no fusion for {model_type}"
