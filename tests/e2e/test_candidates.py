"""Every encoder with every task by every candidate: made, loaded by its runtime, and near the fp32 graph."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertline.artifacts import machine
from bertline.artifacts.run import RunFolder
from bertline.export import sources
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import PLANS, Plan, Situation, select
from bertline.export.conversion import convert, graphs
from bertline.export.conversion.graphs import Graph
from bertline.export.options import ExportOptions
from bertline.serve.engine import Engine
from bertline.serve.runtimes import RUNTIMES
from tests import encoders
from tests.e2e import tiny
from tests.e2e.test_encoders import UNSUPPORTED

UNMADE = {
    ("mobilebert", "int8-static-percentile"): "Too many bins for data range",
    ("deberta", "fp32-openvino"): "doesn't support If operation with dynamic rank",
    ("deberta", "int8-nncf-openvino"): "INVALID_GRAPH",
    ("deberta-v2", "fp32-openvino"): "doesn't support If operation with dynamic rank",
    ("deberta-v2", "int8-nncf-openvino"): "INVALID_GRAPH",
}
"""What a quantizer or a runtime cannot do; an export goes on without it, and says so."""
NEAR = 0.1
"""Of the spread of the logits, the mean difference that eight bits, or four, may make."""


def plans_here() -> list[Plan]:
    """All of them, as an export on this CPU makes them: signed weights have seven bits where eight saturate."""
    every = ExportOptions(0.1, only=tuple(plan.name for plan in PLANS))
    return select(Situation(every, machine.cpu_class(), fused=None, openvino=True))[0]


@pytest.mark.matrix
@pytest.mark.parametrize(("encoder", "task"), [*itertools.product(encoders.ENCODERS, tiny.TASKS)])
def test_every_candidate_of_every_encoder(
    encoder: str, task: str, tiny_run: Callable[[str, str], RunFolder], tmp_path: Path
) -> None:
    if (encoder, task) in UNSUPPORTED:
        pytest.skip(UNSUPPORTED[encoder, task])
    origin = sources.read(str(tiny_run(encoder, task).path), None)
    fp32 = Graph("fp32", convert.to_onnx(origin.folder, origin.settings, tmp_path))
    builder = CandidateBuilder(origin, fp32, graphs.fuse(fp32, "fp32-fused"), origin.texts, 10)
    tokenizer = origin.task.tokenizer(origin.folder)
    windows = tokenizer.encode(origin.texts)

    def logits(graph: Graph) -> np.ndarray:
        engine = Engine(origin.task, tokenizer, RUNTIMES[graph.runtime](graph.path, 1))
        return np.concatenate([output.ravel() for output in engine.outputs(windows)])

    expected = logits(fp32)
    for plan in plans_here():
        if plan.fused and not builder.fused:
            continue
        if (encoder, plan.name) in UNMADE:
            with pytest.raises(Exception, match=UNMADE[encoder, plan.name]):  # the libraries' own, of any kind
                logits(builder.make(plan))
        else:
            off = np.abs(logits(builder.make(plan)) - expected).mean()
            assert off <= NEAR * (expected.std() + 0.1), (plan.name, off, expected.std())
