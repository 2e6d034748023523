"""What `--layout triton` leaves is a Triton model, by the schema of Triton's own client, and a bundle as any other."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from bertline.artifacts import bundle as bundles
from bertline.serve.engine import Engine
from tests.e2e import tiny

TEXTS = {
    "text-classification": ("München is a city", None),
    "token-classification": ("München is a city", None),
    "question-answering": ("which city?", "number 7: New York it is, " * 8),
}


@pytest.fixture(params=tiny.TASKS)
def folder(request: pytest.FixtureRequest, tiny_bundle: Callable[[str, str], Path]) -> Path:
    return tiny_bundle(tiny.TRITON, request.param)


@pytest.fixture
def config(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


@pytest.fixture
def session(folder: Path) -> Any:
    return onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])


def test_the_schema_accepts_the_settings(config: Any) -> None:
    assert config.platform == "onnxruntime_onnx"
    assert config.name == ""  # the folder's, whatever it is renamed to
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert [group.kind for group in config.instance_group] == [ModelInstanceGroup.KIND_CPU]


def test_the_tensors_are_those_of_the_model(config: Any, session: Any) -> None:
    """Triton refuses a model of which they are not."""
    types = {"tensor(int64)": DataType.TYPE_INT64, "tensor(float)": DataType.TYPE_FP32}
    for told, own in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [one.name for one in told] == [one.name for one in own]
        assert [one.data_type for one in told] == [types[one.type] for one in own]
    given = session.run(None, {one.name: np.ones((2, 5), np.int64) for one in config.input})
    for told, array in zip(config.output, given, strict=True):
        assert array.shape == (2, *(5 if size == -1 else size for size in told.dims))
    assert [list(one.dims) for one in config.input] == [[-1]] * len(config.input)


def test_labels_are_named_where_a_text_has_one_vector_of_scores(config: Any, folder: Path) -> None:
    manifest = bundles.read(folder)
    classifies = manifest.task == "text-classification"
    assert {one.label_filename for one in config.output} == {"labels.txt" if classifies else ""}
    assert not classifies or (folder / "labels.txt").read_text().splitlines() == manifest.labels


def test_the_readme_says_how_texts_become_inputs(folder: Path, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code in it, run as it stands, leads to the engine's logits."""
    readme = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme.partition("## Triton")[2], re.DOTALL)
    monkeypatch.chdir(folder)
    said: dict[str, Any] = {}
    exec(code, said)
    engine = Engine.load(folder)
    text = TEXTS[engine.task.settings.task]
    requests = said["requests"](*text)
    assert len(requests) == len(engine.tokenizer.encode([text]))
    given = [np.stack(session.run(None, one), axis=-1).ravel() for one in requests]
    np.testing.assert_allclose(np.concatenate(given), engine.logits(text), atol=1e-5)


def test_it_is_a_bundle_all_the_same(folder: Path) -> None:
    manifest = bundles.verify(folder)
    assert manifest.runtime.model == "1/model.onnx"
    assert {"config.pbtxt", "1/model.onnx", "tokenizer.json"} <= {one.path for one in manifest.files}
    assert [name for name in os.listdir(folder) if name.isdecimal()] == ["1"]
