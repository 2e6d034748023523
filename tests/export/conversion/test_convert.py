"""PyTorch to fp32 ONNX."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from bertline.artifacts.bundle import Runtime
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Tokens
from bertline.export.conversion import convert, onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.models.pytorch import PyTorchRuntime
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.tokens import Tokenizer
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
    """Of a model that has learnt nothing: one that is sure of its answer hardly looks at the types."""
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
    assert onnx_files.describe(fp32.path, "place") == Runtime(model="place", opset=18, ir_version=8)


def test_the_same_model_gives_the_same_bytes_and_no_words(
    run: Path, fp32: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert convert.to_onnx(run / "best", classifier(), tmp_path / "again").read_bytes() == fp32.path.read_bytes()
    assert capfd.readouterr() == ("", "")


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
