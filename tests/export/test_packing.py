"""Packing of short texts: only up to lengths that gain, and only if no answer changes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bertline.artifacts import machine
from bertline.bench import inputs
from bertline.bench.worker import Worker
from bertline.export import export as exports
from bertline.export import packing, systems
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import PLANS, dynamic
from bertline.export.conversion.graphs import Graph
from bertline.export.options import ExportOptions
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.tokens import Batch


@pytest.mark.parametrize(
    ("gains", "tokens"),
    [({16: 1.5, 32: 1.2, 64: 1.0}, 32), ({16: 1.5, 32: 1.2, 64: 1.1}, 64), ({16: 1.0, 32: 1.5}, None), ({}, None)],
)
def test_texts_are_packed_up_to_where_it_gains(gains: dict[int, float], tokens: int | None) -> None:
    found = packing.packing(gains)
    assert (None if found is None else found.tokens) == tokens


def test_the_fp32_graph_answers_alike_in_a_pack(builder: CandidateBuilder, fp32: Graph) -> None:
    origin = builder.origin
    system = systems.system(origin, fp32)
    (pack,) = inputs.make(system.tokenizer, origin.texts, [(packing.TEXTS, 32)])
    with Worker(system, 1) as worker:
        assert packing.answers_alike(worker, pack)


@pytest.mark.parametrize(("seconds", "tokens"), [(4.0, 32), (8.0, None)])
def test_a_gain_is_how_many_times_as_many_texts_a_second(
    builder: CandidateBuilder, fp32: Graph, monkeypatch: pytest.MonkeyPatch, seconds: float, tokens: int | None
) -> None:
    """A batch takes `seconds`, and a single text one second."""

    def told(worker: Worker, batch: Batch) -> float:
        return {1: 1.0, packing.TEXTS: seconds}[len(batch["input_ids"])]

    monkeypatch.setattr(packing, "_seconds", told)
    found = packing.measure(systems.system(builder.origin, fp32), builder.origin.texts)
    assert (None if found is None else found.tokens) == tokens
    assert found is None or found.gains == {"16": 2.0, "32": 2.0}  # the model reads 48 tokens


def test_nothing_is_measured_for_another_cpu(
    builder: CandidateBuilder, fp32: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = packing.packing({16: 2.0})
    monkeypatch.setattr(packing, "measure", lambda *_: measured)
    outcome: Any = SimpleNamespace(chosen=SimpleNamespace(plan=PLANS[0]), graphs={PLANS[0].name: fp32})
    here = machine.cpu_class()
    expected = {"auto": measured, here: measured, "avx2" if here == "arm64" else "arm64": None}
    for target, packed in expected.items():
        assert exports._measure_packing(builder.origin, outcome, ExportOptions(0.05, target=target)) == (packed, [])


def test_dynamic_int8_is_not_asked(builder: CandidateBuilder, fp32: Graph) -> None:
    """Its answers change with the batch, however alike they are for the texts that would be measured."""
    plan = dynamic(signed=True, fused=False)
    outcome: Any = SimpleNamespace(chosen=SimpleNamespace(plan=plan), graphs={plan.name: fp32})  # which would gain
    assert exports._measure_packing(builder.origin, outcome, ExportOptions(0.05)) == (None, [])


def test_one_whose_scales_are_the_batchs_is_never_packed(
    builder: CandidateBuilder, quantized: dict[str, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dynamic int8 graph answers otherwise beside others, by more than rounding."""
    origin, graph = builder.origin, quantized["int8-unsigned"]
    system = systems.system(origin, graph)
    (pack,) = inputs.make(system.tokenizer, origin.texts, [(packing.TEXTS, 32)])
    runtime = OnnxRuntime(graph.path, 1)
    alone = runtime.run({name: array[:1] for name, array in pack.items()})
    moved = np.abs(runtime.run(pack)[:1] - alone).max()
    assert moved > 1e-5
    monkeypatch.setattr(packing, "tolerance", lambda logits: moved / 2)
    assert packing.measure(system, origin.texts) is None
