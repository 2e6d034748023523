"""PyTorch to fp32 ONNX."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertline.artifacts.bundle import RuntimeSpec
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Tokens
from bertline.export.candidates.plans import dynamic
from bertline.export.candidates.quantize import quantize
from bertline.export.conversion import convert, onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.models.pytorch import PyTorchRuntime
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.tokens import Tokenizer
from tests import encoders
from tests.conftest import classifier, make_model, make_texts


def change_config(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_logits_are_those_of_pytorch(run: Path, fp32: Graph) -> None:
    tokenizer = Tokenizer(run / "best", Tokens(max_length=64))
    batch = tokenizer.pad(tokenizer.encode([(row["text"], None) for row in make_texts(20)]))
    expected = PyTorchRuntime(run / "best", "ForSequenceClassification", 1).run(batch)
    np.testing.assert_allclose(OnnxRuntime(fp32.path, 1).run(batch), expected, atol=1e-4)


def test_pairs_reach_the_graph(tiny_classifier: Path, tmp_path: Path) -> None:
    """An untrained model is used, since one that is sure of its answer hardly uses the types."""
    graph = OnnxRuntime(convert.to_onnx(tiny_classifier, classifier(64), tmp_path / "onnx"), 1)
    tokenizer = Tokenizer(tiny_classifier, Tokens(max_length=64))
    batch = tokenizer.pad(tokenizer.encode([("a good film", "a bad one"), ("one", "two three four")]))
    expected = PyTorchRuntime(tiny_classifier, "ForSequenceClassification", 1).run(batch)
    np.testing.assert_allclose(graph.run(batch), expected, atol=1e-5)
    batch["token_type_ids"][:] = 0
    assert not np.allclose(graph.run(batch), expected, atol=1e-4)


def test_the_graph_is_valid_and_takes_int64(fp32: Graph) -> None:
    model = onnx.load(fp32.path)
    onnx.checker.check_model(model, full_check=True)
    assert {one.name for one in model.graph.input} == {"input_ids", "attention_mask", "token_type_ids"}
    assert {one.type.tensor_type.elem_type for one in model.graph.input} == {onnx.TensorProto.INT64}
    assert onnx_files.describe(fp32.path, "place") == RuntimeSpec(model="place", opset=18, ir_version=8)


def test_the_same_model_gives_the_same_bytes_and_no_words(
    run: Path, fp32: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert convert.to_onnx(run / "best", classifier(), tmp_path / "again").read_bytes() == fp32.path.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_no_weight_is_in_an_int8_file_twice(tmp_path: Path) -> None:
    """DeBERTa multiplies relative positions by the matrices that words are multiplied by."""
    from transformers import AutoModelForSequenceClassification

    folder = encoders.make("deberta-v2", tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder)
    fp32 = convert.to_onnx(folder, classifier(32), tmp_path / "onnx")
    quantize(dynamic(signed=True, fused=False), fp32, tmp_path / "int8.onnx", [])
    names = {one.name for one in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert [name for name in names if f"{name}_quantized" in names] == []
    tokenizer = Tokenizer(folder, Tokens(max_length=32))
    batch = tokenizer.pad(tokenizer.encode([(text, None) for text in encoders.TEXTS[:4]]))
    expected = PyTorchRuntime(folder, "ForSequenceClassification", 1).run(batch)
    np.testing.assert_allclose(OnnxRuntime(fp32, 1).run(batch), expected, atol=1e-5)


def test_a_weight_is_read_directly_from_within_branches_too() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("y", "z")]
    branch = helper.make_graph([helper.make_node("Neg", ["copy"], ["z"])], "branch", [], ends[1:])
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["weight"], ["copy"]),
            helper.make_node("If", ["which"], ["y"], then_branch=branch, else_branch=branch),
        ],
        "graph",
        [helper.make_tensor_value_info("which", TensorProto.BOOL, [])],
        ends[:1],
        [numpy_helper.from_array(np.ones(2, np.float32), "weight")],
    )
    convert.read_weights_directly(graph)
    (node,) = graph.node
    assert [one.g.node[0].input[0] for one in node.attribute] == ["weight"] * 2


def test_a_model_without_a_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights for classifier\.bias, classifier\.weight"):
        convert.to_onnx(tiny_model, classifier(), tmp_path / "onnx")


def test_an_architecture_that_optimum_does_not_know_is_refused(tiny_classifier: Path, tmp_path: Path) -> None:
    change_config(tiny_classifier, model_type="canine")
    with pytest.raises(InputError, match="optimum does not convert 'canine' for text-classification"):
        convert.to_onnx(tiny_classifier, classifier(), tmp_path / "onnx")


def test_a_config_that_names_code_is_refused(tiny_classifier: Path, tmp_path: Path) -> None:
    change_config(tiny_classifier, auto_map={"AutoModelForSequenceClassification": "evil.Model"})
    with pytest.raises(InputError, match="auto_map"):
        convert.to_onnx(tiny_classifier, classifier(), tmp_path / "onnx")


def test_weights_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", ("a", "b"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="half-written or damaged"):
        convert.to_onnx(folder, classifier(), tmp_path / "onnx")
    shutil.rmtree(folder)
