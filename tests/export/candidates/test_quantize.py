"""What quantizing does to a graph; what it costs in answers is measured by every export."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCalibrater

from bertline.export.candidates import quantize, sensitivity
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import PLANS, dynamic
from bertline.export.conversion import onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.serve.runtimes import OpenVino


def rounded(zero_point: np.ndarray) -> onnx.ModelProto:
    """x as a byte and back: a step is 0.1."""
    constants = {"scale": np.array(0.1, np.float32), "zero_point": zero_point}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["byte"]),
            helper.make_node("DequantizeLinear", ["byte", "scale", "zero_point"], ["y"]),
        ],
        "rounded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])


@pytest.mark.parametrize("zero_point", [-128, -7, 0, 127])
def test_unsigned_bytes_mean_what_signed_ones_meant(zero_point: int) -> None:
    signed, unsigned = (rounded(np.array(zero_point, np.int8)) for _ in range(2))
    quantize.make_activations_unsigned(unsigned.graph)
    assert numpy_helper.to_array(unsigned.graph.initializer[1]) == np.uint8(zero_point + 128)
    x = np.linspace(-40, 40, 4001, dtype=np.float32)  # farther than bytes reach, and halves of steps
    np.testing.assert_array_equal(run(unsigned, x), run(signed, x))


@pytest.mark.parametrize("signed", [True, False])
def test_only_the_embeddings_of_words_are_quantized(quantized: dict[str, Graph], signed: bool) -> None:
    """The table of positions is small, and has numbers of which one scale would leave little."""
    graph = onnx.load(quantized[dynamic(signed, fused=False).name].path).graph
    bits = {one.name: one.data_type for one in graph.initializer if len(one.dims) == 2}
    tables = {node.input[1]: bits.get(node.input[0]) for node in graph.node if node.op_type == "Gather"}
    floats = [ids for ids, kind in tables.items() if kind == TensorProto.FLOAT]
    assert tables["input_ids"] in (TensorProto.INT8, TensorProto.UINT8)
    assert len(floats) == 2
    assert "token_type_ids" in floats


def test_words_that_one_scale_cannot_hold_are_the_first_to_stay_in_fp32(
    builder: CandidateBuilder, fp32: Graph, tmp_path: Path
) -> None:
    """No layer in fp32 would mend what is lost before it."""
    model = onnx.load(fp32.path)
    (words,) = [one for one in model.graph.initializer if one.name.endswith("word_embeddings.weight")]
    table = numpy_helper.to_array(words).copy()
    table[-1, 0] = 400  # of a token that no text has
    words.CopyFrom(numpy_helper.from_array(table, words.name))
    onnx.save(model, tmp_path / "model.onnx")
    plan = dynamic(signed=True, fused=False)
    (first, *_) = sensitivity.rank(tmp_path / "model.onnx", builder.texts[:4], plan)
    assert first == ["/bert/embeddings/word_embeddings/Gather"]
    quantize.quantize(plan, tmp_path / "model.onnx", tmp_path / "int8.onnx", [], first)
    assert words.name in {one.name for one in onnx.load(tmp_path / "int8.onnx").graph.initializer}


@pytest.mark.parametrize("name", ["int8-nncf-openvino", "int8-static-minmax"])
def test_attention_and_logits_stay_in_fp32_and_activations_are_unsigned(quantized: dict[str, Graph], name: str) -> None:
    graph = onnx.load(quantized[name].path).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    weights = {one.name: one.data_type for one in graph.initializer}
    products = {
        node.name: {made_by.get(name) for name in node.input} for node in graph.node if node.op_type == "MatMul"
    }
    attention = {name for name, inputs in products.items() if "DequantizeLinear" not in inputs}
    assert len(attention) == 4  # two layers: queries by keys, weights by values
    assert all(inputs == {"DequantizeLinear"} for name, inputs in products.items() if name not in attention)
    rounded_to = {weights[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert rounded_to == {TensorProto.UINT8}
    assert made_by["logits"] in ("Gemm", "Add")


def test_openvino_computes_what_is_not_int8_alike_on_every_cpu(quantized: dict[str, Graph]) -> None:
    runtime = OpenVino(quantized["int8-nncf-openvino"].path, threads=1)
    assert runtime._model.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_calibration_holds_the_activations_of_one_text(
    builder: CandidateBuilder, fp32: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, clear = [], HistogramCalibrater.clear_collected_data

    def noting(calibrater: HistogramCalibrater) -> None:
        held.append(len(calibrater.intermediate_outputs))
        clear(calibrater)

    monkeypatch.setattr(HistogramCalibrater, "clear_collected_data", noting)
    plan = next(plan for plan in PLANS if plan.calibration == "entropy")
    quantize.quantize(plan, fp32.path, tmp_path / "int8.onnx", builder.texts[:5])
    assert held == [1] * 5


def test_every_candidate_is_a_file_that_may_be_sealed(quantized: dict[str, Graph]) -> None:
    for name, graph in quantized.items():
        onnx_files.check(graph.path)
        assert onnx.load(graph.path).ir_version == (10 if name == "int4-weights" else 8)
