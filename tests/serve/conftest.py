"""A bundle around a tiny fp32 model, put together by hand so that these tests stand on floors 1 to 3 alone."""

import inspect
import shutil
import warnings
from pathlib import Path

import pytest

from bertline.artifacts import bundle, files, machine
from bertline.artifacts.bundle import Candidate, Fidelity, Golden, Manifest, RuntimeSpec, Source
from tests.conftest import classifier, make_model


def to_onnx(model: Path, path: Path) -> None:
    """Trace a sequence classifier as torch.onnx documents it."""
    import torch
    from transformers import BertForSequenceClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BertForSequenceClassification.from_pretrained(model, attn_implementation="eager").eval()

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids, attention_mask, token_type_ids).logits
            return logits

    names = list(inspect.signature(Logits.forward).parameters)[1:]
    example = torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "length"} for name in names}
    path.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about constants
        torch.onnx.export(
            Logits(), (example, example, example * 0), str(path), input_names=names, output_names=["logits"],
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip


def seal(model: Path, folder: Path) -> Path:
    """The bundle of a tiny classifier, with one golden text."""
    from bertline.serve.engine import Engine
    from bertline.serve.runtimes import OnnxRuntime
    from bertline.tasks import catalog

    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    to_onnx(model, folder / bundle.MODEL)
    task = catalog.make(classifier())
    engine = Engine(task, task.tokenizer(folder), OnnxRuntime(folder / bundle.MODEL))
    golden = Golden(text="a good film", logits=engine.logits(("a good film", None)))
    chosen = Candidate(
        name="fp32", runtime="onnxruntime", value=0.5, drop=0.0, drop_interval=None, size_bytes=1, p50_ms={"1x16": 1.0},
        chosen=True, why="",
    )  # fmt: skip
    manifest = Manifest(
        **task.settings.model_dump(), schema_version=1, name="tiny", runtime=RuntimeSpec(opset=17, ir_version=8),
        metric="accuracy",
        baseline=0.5, value=0.5, drop=0.0, max_drop=0.01, examples=1,
        fidelity=Fidelity(max_abs_logit_diff=0.0, texts=1), candidates=[chosen], target="avx2",
        machine=machine.describe(),
        threads=1, versions={}, source=Source(kind="model", place="tiny", model="tiny", weights_sha256="0" * 64),
        golden=[golden], created="2026-01-01T00:00:00+00:00", files=files.listing(folder),
    )  # fmt: skip
    files.write_json(folder / bundle.MANIFEST, manifest.model_dump(mode="json"))
    return folder


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_classifier`; not to be changed."""
    model = make_model(tmp_path_factory.mktemp("sealed") / "model", ("negative", "positive"))
    return seal(model, model.with_name("bundle"))


@pytest.fixture
def tiny_bundle(sealed: Path, tmp_path: Path) -> Path:
    """A copy of it, whose model is `tiny_classifier`'s as well."""
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes tens of milliseconds for a text, so that asking costs little beside answering."""
    folder = tmp_path_factory.mktemp("slow")
    return seal(make_model(folder / "model", ("negative", "positive"), layers=8, hidden=1024), folder / "bundle")
