"""A tiny classifier that was really trained, as a run folder; its graphs and its bundle, each made once."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import files, machine
from bertline.artifacts.files import FileEntry
from bertline.artifacts.run import Best, DataFiles, Provenance, RunFolder, Summary
from bertline.export import sources
from bertline.export.candidates import plans
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.conversion import convert, graphs
from bertline.export.conversion.graphs import Graph
from bertline.export.export import export
from bertline.export.options import ExportOptions
from tests import forks
from tests.conftest import classifier, make_model, make_texts

LABELS = ("negative", "positive")
PROVENANCE = Provenance(
    weights_sha256="1" * 64,
    data={"train": DataFiles(files=[FileEntry(path="texts.csv", size_bytes=1, sha256="2" * 64)])},
)
RECIPE = """\
name: tiny
deepspeed: {wandb: {enabled: true, team: ours}}
mlflow: {tracking_uri: "http://me:secret@tracking"}
"""


def train(folder: Path, steps: int = 40) -> None:
    """A few steps of plain PyTorch, enough to tell nearly all of the texts apart."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = make_texts(32 * steps, seed=1)
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        inputs = tokenizer([row["text"] for row in batch], padding=True, return_tensors="pt")
        labels = torch.tensor([LABELS.index(row["label"]) for row in batch])
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def write_texts(path: Path, count: int) -> Path:
    """Labelled texts as JSON lines."""
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in make_texts(count, seed=2)))
    return path


def write_run(folder: Path) -> Path:
    """A finished run, as `train` leaves it, without checkpoints."""
    run = RunFolder(folder)
    make_model(run.best, LABELS)
    train(run.best)
    write_texts(run.split("validation"), 200)
    summary = Summary(
        **classifier(48).model_dump(), name="tiny", model="pkg://somewhere/tiny", provenance=PROVENANCE,
        metric="f1", best=Best(step=40, value=0.9), validation={}, test={}, data={"train": 1280, "validation": 200},
        ranks=1, precision="fp32", zero_stage=0, steps=40, seconds=1.0, tokens_per_second=1.0,
        padding_share=0.1, machine=machine.describe(), versions={}, started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:01+00:00", files=files.listing(run.best),
    )  # fmt: skip
    files.write_text(run.recipe, RECIPE)
    files.write_json(run.summary, summary.model_dump(mode="json"))
    return folder


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """One round of a few repetitions by forked workers of one thread, where what is measured is whether it can be."""
    patch.setattr("bertline.export.contest.ROUNDS", 1)
    patch.setattr("bertline.bench.worker.WARM_UP_SECONDS", 0.0)
    patch.setattr("bertline.bench.worker.TURN_SECONDS", 0.0)
    patch.setattr("bertline.bench.worker.PROCESSES", forks.context())
    patch.setattr("bertline.artifacts.machine.cores", lambda: 1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def fp32(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return Graph("fp32", convert.to_onnx(run / "best", classifier(48), tmp_path_factory.mktemp("onnx")))


@pytest.fixture(scope="session")
def fused(fp32: Graph) -> Graph:
    graph = graphs.fuse(fp32, "fp32-fused")
    assert graph is not None
    return graph


@pytest.fixture(scope="session")
def builder(run: Path, fp32: Graph, fused: Graph) -> CandidateBuilder:
    origin = sources.read(str(run), None)
    return CandidateBuilder(origin, fp32, fused, origin.texts, 20)


@pytest.fixture(scope="session")
def quantized(builder: CandidateBuilder) -> dict[str, Graph]:
    """The graph of every plan."""
    return {plan.name: builder.make(plan) for plan in plans.PLANS}


@pytest.fixture(scope="session")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A bundle, the JSON that was answered, and what was said."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        return folder, export(str(run), folder, ExportOptions(0.05), say=said.append), said
