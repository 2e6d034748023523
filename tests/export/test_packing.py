"""Short texts side by side: only up to where it gains, and only where nobody's answer changes."""

import numpy as np
import pytest

from bertline.bench import inputs
from bertline.bench.worker import Worker
from bertline.export import packing, systems
from bertline.export.candidates.workshop import Workshop
from bertline.export.conversion.graphs import Graph
from bertline.serve.runtimes import OnnxRuntime


@pytest.mark.parametrize(
    ("gains", "tokens"),
    [({16: 1.5, 32: 1.2, 64: 1.0}, 32), ({16: 1.5, 32: 1.2, 64: 1.1}, 64), ({16: 1.0, 32: 1.5}, None), ({}, None)],
)
def test_texts_are_packed_up_to_where_it_gains(gains: dict[int, float], tokens: int | None) -> None:
    found = packing.packing(gains)
    assert (None if found is None else found.tokens) == tokens


def test_the_fp32_graph_answers_alike_in_a_pack(workshop: Workshop, fp32: Graph) -> None:
    origin = workshop.origin
    system = systems.system(origin, fp32)
    (pack,) = inputs.make(system.tokenizer, origin.texts, [(packing.TEXTS, 32)])
    with Worker(system, 1) as worker:
        assert packing.answers_alike(worker, pack)


def test_one_whose_scales_are_the_batchs_is_never_packed(
    workshop: Workshop, quantized: dict[str, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dynamic int8 graph answers otherwise beside others, by more than rounding."""
    origin, graph = workshop.origin, quantized["int8-unsigned"]
    system = systems.system(origin, graph)
    (pack,) = inputs.make(system.tokenizer, origin.texts, [(packing.TEXTS, 32)])
    runtime = OnnxRuntime(graph.path, 1)
    alone = runtime.run({name: array[:1] for name, array in pack.items()})
    moved = np.abs(runtime.run(pack)[:1] - alone).max()
    assert moved > 1e-5
    monkeypatch.setattr(packing, "tolerance", lambda logits: moved / 2)
    assert packing.measure(system, origin.texts) is None
