"""The fp32 graphs: a fused one that answers differently is left out, with the reason."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts.bundle import Fidelity
from bertline.bench import compare
from bertline.export import sources
from bertline.export.conversion import convert, graphs
from bertline.export.conversion.graphs import Graph
from bertline.export.gates import exact, fidelity

PROOF = Fidelity(max_abs_logit_diff=0.0, texts=1)


@pytest.mark.parametrize("faults", [[], ["differs from the PyTorch model"]])
def test_a_fused_graph_that_differs_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str]
) -> None:
    fused = Graph("fp32-fused", tmp_path / "fused.onnx")
    monkeypatch.setattr(convert, "to_onnx", lambda *_: tmp_path / "model.onnx")
    monkeypatch.setattr(graphs, "fuse", lambda *_: fused)
    monkeypatch.setattr(compare, "started", lambda systems, threads: nullcontext(systems))
    monkeypatch.setattr(fidelity, "gates", lambda *_: (PROOF, faults))
    origin = sources.read(str(run), None)
    reference: Any = None  # none is asked
    made = exact.make(origin, origin, reference, tmp_path, lambda line: None)
    assert made.fused == (None if faults else fused)
    assert made.why_not_fused == ("the fused graph differs from the PyTorch model" if faults else None)
