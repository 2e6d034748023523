"""A tiny classifier, the same as ONNX, and the measurements of both, made once for all tests."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from bertline.bench import compare
from bertline.bench.compare import Measured
from bertline.bench.systems import System
from bertline.tasks.task import Example
from bertline.tasks.tokens import Text
from tests.conftest import classifier, make_model, make_texts

LABELS = ("negative", "positive")
GRID = ((1, 16), (1, 64), (3, 16))


def to_onnx(model: Path, path: Path) -> Path:
    """The classifier as fp32 ONNX, by torch's own exporter."""
    import torch
    from transformers import AutoModelForSequenceClassification

    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.ones(2, 8, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: the exporter that needs no further package is deprecated
        torch.onnx.export(
            AutoModelForSequenceClassification.from_pretrained(model).eval(),
            (ids, ids, ids * 0),
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in names},
            dynamo=False,
        )
    return path


@dataclass(frozen=True)
class Bench:
    """Two systems that compute one model, the texts they were asked, and what came of it."""

    systems: list[System]
    texts: list[Text]
    examples: list[Example]
    measured: list[Measured]
    told: list[str]


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> list[System]:
    folder = tmp_path_factory.mktemp("bench")
    model = make_model(folder / "classifier", LABELS)
    onnx = to_onnx(model, folder / "model.onnx")
    return [
        System("pytorch", "pytorch", model, model, classifier()),
        System("onnxruntime-fp32", "onnxruntime", onnx, model, classifier()),
    ]


@pytest.fixture(scope="session")
def bench(systems: list[System]) -> Bench:
    examples = [Example(row["text"], None, row["label"]) for row in make_texts(50)]
    texts = [example.texts for example in examples]
    told: list[str] = []
    with compare.started(systems, threads=1) as workers:
        measured = compare.measure(workers, texts, GRID, rounds=2, say=told.append)
    return Bench(systems, texts, examples, measured, told)
