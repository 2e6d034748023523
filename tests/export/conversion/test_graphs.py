"""The fused and quantized graphs: their nodes, and that they still compute the same."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertline.artifacts.graph import check
from bertline.artifacts.task import Tokens
from bertline.export.candidates import plans
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.conversion import graphs
from bertline.export.conversion.graphs import Graph
from bertline.serve.runtimes import RUNTIMES, OnnxRuntime
from bertline.tasks.tokens import Batch, Tokenizer
from tests.conftest import make_texts

NAMES = ["int8-signed", "int8-unsigned", "int8-signed-fused", "int8-unsigned-fused"]
EVERY = [plan.name for plan in plans.PLANS]


def operators(path: Path) -> Counter[str]:
    """The operators of the graph and of those branches that attend with a mask."""
    nodes = list(onnx.load(path).graph.node)
    masked = [each.g for node in nodes if node.op_type == "If" for each in node.attribute if each.name == "else_branch"]
    return Counter(node.op_type for some in (nodes, *(graph.node for graph in masked)) for node in some)


def weights(path: Path) -> dict[str, np.ndarray]:
    """The quantized matrices."""
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    return {name: tensor for name, tensor in tensors.items() if name.endswith("_quantized") and tensor.ndim == 2}


@pytest.fixture
def batch(run: Path) -> Batch:
    tokenizer = Tokenizer(run / "best", Tokens(max_length=64))
    return tokenizer.pad(tokenizer.encode([(row["text"], None) for row in make_texts(20)]))


def test_attention_is_fused_and_logits_stay(fp32: Graph, fused: Graph, batch: Batch) -> None:
    assert operators(fused.path)["MultiHeadAttention"] == 2
    assert operators(fused.path)["Softmax"] == 0
    np.testing.assert_allclose(OnnxRuntime(fused.path, 1).run(batch), OnnxRuntime(fp32.path, 1).run(batch), atol=1e-5)


def test_attention_without_padding_has_no_mask(fp32: Graph, fused: Graph, batch: Batch) -> None:
    """Nor is it another answer."""
    branches = [node for node in onnx.load(fused.path).graph.node if node.op_type == "If"]
    inputs = [{each.name: len(each.g.node[0].input) for each in node.attribute} for node in branches]
    assert inputs == [{"then_branch": 4, "else_branch": 5}] * 2
    short = {name: array[:, :4].copy() for name, array in batch.items()}
    assert short["attention_mask"].all()
    np.testing.assert_allclose(OnnxRuntime(fused.path, 1).run(short), OnnxRuntime(fp32.path, 1).run(short), atol=1e-5)


def test_padding_may_stand_on_the_left(fp32: Graph, fused: Graph, batch: Batch) -> None:
    left = {name: array[:, ::-1].copy() for name, array in batch.items()}
    np.testing.assert_allclose(OnnxRuntime(fused.path, 1).run(left), OnnxRuntime(fp32.path, 1).run(left), atol=1e-5)


def test_onnx_runtime_finds_no_sum_to_fuse_on_loading(quantized: dict[str, Graph], tmp_path: Path) -> None:
    """Its SkipLayerNormalization would be slower."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(str(quantized["int8-signed-fused"].path), options, providers=["CPUExecutionProvider"])
    loaded = operators(tmp_path / "loaded.onnx")
    assert loaded["LayerNormalization"] == 5
    assert loaded["SkipLayerNormalization"] == 0
    assert loaded["MultiHeadAttention"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_eight_bits_per_channel(quantized: dict[str, Graph], name: str) -> None:
    path = quantized[name].path
    found = weights(path)
    kind = np.uint8 if "unsigned" in name else np.int8
    assert {tensor.dtype for key, tensor in found.items() if "embeddings" not in key} == {np.dtype(kind)}
    scales = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    per_channel = [key for key in found if scales[key.replace("_quantized", "_scale")].size == found[key].shape[1]]
    assert len(per_channel) >= 8  # of two layers: q, k, v; attention output; both dense ones
    floats = [one for one in onnx.load(path).graph.initializer if one.data_type == TensorProto.FLOAT]
    large = [one.name for one in floats if np.prod(one.dims) > 400]
    assert large == ["bert.embeddings.position_embeddings.weight"]


@pytest.mark.parametrize("name", [plan.name for plan in plans.PLANS if plan.signed])
def test_signed_weights_have_seven_bits_where_products_would_saturate(builder: CandidateBuilder, name: str) -> None:
    plan = next(plan for plan in plans.PLANS if plan.name == name)
    made = builder.make(replace(plan, name=f"{name}-of-seven", reduce_range=True))
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(made.path).graph.initializer}
    matrices = [
        tensor
        for key, tensor in tensors.items()
        if tensor.dtype == np.int8 and tensor.ndim == 2 and "embeddings" not in key  # which nothing multiplies
    ]
    assert len(matrices) >= 8
    assert {int(np.abs(tensor.astype(int)).max()) for tensor in matrices} <= {63, 64}


@pytest.mark.parametrize("name", EVERY)
def test_quantized_graphs_are_valid_and_take_int64(quantized: dict[str, Graph], name: str) -> None:
    model = onnx.load(quantized[name].path)
    onnx.checker.check_model(model)
    assert {one.name: one.type.tensor_type.elem_type for one in model.graph.input} == dict.fromkeys(
        ["input_ids", "attention_mask", "token_type_ids"], TensorProto.INT64
    )


@pytest.mark.parametrize("name", EVERY)
def test_every_graph_passes_the_check_of_loading(run: Path, quantized: dict[str, Graph], name: str) -> None:
    vocabulary = json.loads((run / "best/config.json").read_text())["vocab_size"]
    rows = None if name == "int4-weights" else vocabulary  # its embeddings are in blocks, which hide how many there are
    assert check(quantized[name].path.read_bytes(), "text-classification", ()) == (False, rows)


@pytest.mark.parametrize("name", EVERY)
def test_every_candidate_answers_alike(fp32: Graph, quantized: dict[str, Graph], name: str, batch: Batch) -> None:
    expected = OnnxRuntime(fp32.path, 1).run(batch)
    graph = quantized[name]
    found = RUNTIMES[graph.runtime](graph.path, 1).run(batch)
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) >= 0.9
    assert np.abs(found - expected).max() > 0 or name == "fp32"


def test_the_same_graph_gives_the_same_bytes(
    builder: CandidateBuilder, quantized: dict[str, Graph], tmp_path: Path
) -> None:
    copy = Graph("fp32", tmp_path / "fp32.onnx")
    copy.path.write_bytes(builder.fp32.path.read_bytes())
    again = CandidateBuilder(builder.origin, copy, graphs.fuse(copy, "fp32-fused"), builder.origin.texts, 20)
    for plan in plans.PLANS:
        assert again.make(plan).path.read_bytes() == quantized[plan.name].path.read_bytes(), plan.name


def test_a_graph_without_attention_is_not_fused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["input_ids"], ["logits"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("input_ids", "logits")]
    model = helper.make_model(helper.make_graph([node], "plain", ends[:1], ends[1:]))
    onnx.save(model, tmp_path / "fp32.onnx")
    assert graphs.fuse(Graph("fp32", tmp_path / "fp32.onnx"), "fp32-fused") is None
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]
