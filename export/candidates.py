"""The candidates: fp32, fused, and both of them in int8 with signed and with unsigned weights.

What is left out is told: a fusion that ONNX Runtime does not know or that changes the answers, and signed weights for a
CPU on which they would answer otherwise than they do here.
"""

from dataclasses import dataclass
from pathlib import Path

from bertline.artifacts import machine
from bertline.artifacts.bundle import Fidelity
from bertline.artifacts.errors import InputError
from bertline.bench import compare
from bertline.bench.worker import Worker
from bertline.export import convert, fidelity, graphs
from bertline.export.graphs import Graph
from bertline.export.measure import Say, systems
from bertline.export.sources import Origin

TARGETS = ("auto", "avx2", "avx512", "avx512_vnni", "arm64")
EXACT = ("avx512_vnni", "arm64")
"""CPU classes that multiply unsigned by signed bytes exactly; the others saturate, and answer otherwise."""


@dataclass(frozen=True)
class Made:
    """The candidates as files, fp32 first."""

    graphs: list[Graph]
    fidelity: Fidelity
    """Of the first to PyTorch."""
    notices: list[str]
    """What was left out, and why."""

    def graph(self, name: str) -> Graph:
        """The candidate of that name."""
        return next(graph for graph in self.graphs if graph.name == name)


def make(origin: Origin, yardstick: Worker, folder: Path, target: str, say: Say) -> Made:
    """Convert, fuse and quantize; what was converted and fused is held against PyTorch (the yardstick) before that."""
    say(f"converting {origin.folder} to ONNX")
    fp32 = Graph("fp32", convert.to_onnx(origin.folder, origin.settings, folder))
    fused = graphs.fuse(fp32, "fp32-fused")
    notices = [] if fused else [f"no fused candidates: ONNX Runtime knows no fusion for {origin.config['model_type']}"]
    say("comparing with PyTorch")
    exact = [fp32, fused] if fused else [fp32]
    with compare.started(systems(origin, exact), machine.cores()) as workers:
        proof, faults = fidelity.gates(origin, yardstick, workers)
    if faults:
        notices.append(f"no fused candidates: the fused graph {faults[0]}")
        exact = [fp32]
    left_out = signed_left_out(target, machine.cpu_class())
    notices += [left_out] if left_out else []
    say("quantizing")
    return Made([*exact, *graphs.quantized(exact, signed=not left_out)], proof, notices)


def signed_left_out(target: str, here: str) -> str | None:
    """Why candidates with signed weights are left out; None where what is measured here holds on the target.

    auto is this very machine, whatever it does: its own answers are measured. A class is all CPUs of it.
    """
    if target == "auto" or {target, here} <= set(EXACT):
        return None
    which = target if target not in EXACT else here
    return (
        f"no candidates with signed weights: CPUs of class {which} saturate when they multiply unsigned by signed "
        "bytes, and answer otherwise than those that do not"
    )


def check_target(target: str) -> None:
    """Raise InputError unless `target` is one of TARGETS."""
    if target not in TARGETS:
        raise InputError(f"target {target!r} is unknown; it is one of {', '.join(TARGETS)}")
