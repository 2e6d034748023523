"""The fp32 graphs: a fused one that answers differently, or not at all, is left out, with the reason."""

import errno
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bertline.bench.worker import Worker
from bertline.export import sources, systems
from bertline.export.conversion import graphs
from bertline.export.conversion.graphs import Graph
from bertline.export.gates import exact, fidelity
from tests.export.gates.test_fidelity import perturb


@pytest.mark.parametrize("right", [True, False])
def test_a_fused_graph_that_differs_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    fuse = graphs.fuse

    def fuse_wrongly(graph: Graph, name: str) -> Graph | None:
        fused = fuse(graph, name)
        assert fused is not None
        model = onnx.load(fused.path)
        perturb(model.graph)
        onnx.save(model, fused.path)
        return fused

    if not right:
        monkeypatch.setattr(graphs, "fuse", fuse_wrongly)
    origin = sources.read(str(run), None)
    with Worker(systems.pytorch(origin), 1) as reference:
        made = exact.make(origin, fidelity.expect(origin, origin, reference), tmp_path, lambda line: None)
    assert made.fidelity.max_abs_logit_diff < 1e-4
    assert made.fp32.path.is_file()
    if right:
        assert made.fused is not None
        assert made.why_not_fused is None
    else:
        assert made.fused is None
        assert str(made.why_not_fused).startswith("the fused graph differs from the PyTorch model: largest |Δlogit|")


def break_file(graph: Graph, name: str) -> Graph:
    path = graph.path.with_name(f"{name}.onnx")
    path.write_bytes(b"not a model")
    return Graph(name, path)


def fail(graph: Graph, name: str) -> Graph:
    raise AssertionError("unknown shape")


@pytest.mark.parametrize(
    ("fuse", "why"),
    [
        (break_file, "the fused graph cannot run: fp32-fused: "),
        (fail, "ONNX Runtime's fusion of bert failed (AssertionError: unknown shape)"),
    ],
)
def test_a_fused_graph_that_fails_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fuse: Callable[[Graph, str], Graph], why: str
) -> None:
    monkeypatch.setattr(graphs, "fuse", fuse)
    origin = sources.read(str(run), None)
    with Worker(systems.pytorch(origin), 1) as reference:
        made = exact.make(origin, fidelity.expect(origin, origin, reference), tmp_path, lambda line: None)
    assert made.fused is None
    assert str(made.why_not_fused).startswith(why)


def test_a_full_disk_is_no_fault_of_a_fusion(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Graph, name: str) -> Graph:
        raise OSError(errno.ENOSPC, "full", name)

    monkeypatch.setattr(graphs, "fuse", full)
    origin = sources.read(str(run), None)
    with Worker(systems.pytorch(origin), 1) as reference, pytest.raises(OSError, match="full"):
        exact.make(origin, fidelity.expect(origin, origin, reference), tmp_path, lambda line: None)
