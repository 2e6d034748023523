"""From a run to a bundle, and all the ways that end without one."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bertline.artifacts import bundle as bundles
from bertline.artifacts import files
from bertline.artifacts.errors import GateError, InputError
from bertline.artifacts.task import TaskSettings
from bertline.export import convert
from bertline.export.candidates import signed_left_out
from bertline.export.export import export
from bertline.serve.engine import Engine
from tests.conftest import make_texts
from tests.export.conftest import measure_briefly

Sealed = tuple[Path, dict[str, Any], list[str]]
CANDIDATES = [
    "fp32", "fp32-fused", "int8-signed", "int8-unsigned", "int8-signed-fused", "int8-unsigned-fused",
]  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Brief timing, and a folder of our own for temporary files: returned, to see what is left there."""
    measure_briefly(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def nothing_is_left(bundle: Path, temporary: Path) -> bool:
    return not bundle.parent.exists() and list(temporary.iterdir()) == []


def test_the_exact_files_of_a_bundle(bundle: Sealed) -> None:
    assert [entry.path for entry in files.listing(bundle[0])] == [
        "README.md",
        "bertline.json",
        "config.json",
        "onnx/model.onnx",
        "report.html",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert list(bundle[0].parent.iterdir()) == [bundle[0]]


def test_the_manifest_accounts_for_everything(bundle: Sealed, run: Path) -> None:
    manifest = bundles.verify(bundle[0])
    assert (manifest.name, manifest.labels, manifest.inputs) == ("tiny", ["negative", "positive"], ["text"])
    assert (manifest.tokens.max_length, manifest.metric, manifest.examples) == (48, "f1", 200)
    assert manifest.fidelity.texts == 256
    assert manifest.fidelity.max_abs_logit_diff <= 1e-3
    assert manifest.baseline > 0.9
    assert manifest.drop == pytest.approx(manifest.baseline - manifest.value)
    assert (bundle[0] / manifest.source.place).resolve() == run
    assert 4 <= len(manifest.golden) <= 8


def test_every_candidate_is_told_with_its_figures_and_a_reason(bundle: Sealed) -> None:
    manifest = bundles.read(bundle[0])
    assert [one.name for one in manifest.candidates] == CANDIDATES
    for one in manifest.candidates:
        assert list(one.p50_ms) == ["1x16", "1x64"]  # 64 positions
        assert all(ms > 0 for ms in one.p50_ms.values())
        assert one.drop_interval[0] <= one.drop <= one.drop_interval[1]
        assert one.why
    (chosen,) = [one for one in manifest.candidates if one.chosen]
    assert chosen.name.startswith("int8")
    assert chosen.size_bytes == (bundle[0] / "onnx/model.onnx").stat().st_size


def test_what_is_answered_is_what_the_manifest_says(bundle: Sealed) -> None:
    folder, result, said = bundle
    manifest = bundles.read(folder)
    assert result["bundle"] == str(folder)
    assert result["chosen"] == next(one.name for one in manifest.candidates if one.chosen)
    assert result["candidates"] == [one.model_dump(mode="json") for one in manifest.candidates]
    assert set(result) >= {"metric", "baseline", "drop", "fidelity", "target", "measured_on", "notices"}
    assert json.loads(json.dumps(result)) == result
    assert any("chosen: the fastest" in line for line in said)
    assert any("which is wider than max-drop" in line for line in said) == bool(result["notices"])


def test_the_engine_answers(bundle: Sealed) -> None:
    engine = Engine.load(bundle[0])
    rows = make_texts(40, seed=9)
    answers = engine.predict([(row["text"], None) for row in rows])
    assert np.mean([answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)]) > 0.85


def test_optimum_opens_the_bundle_and_answers_alike(bundle: Sealed) -> None:
    import torch
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(bundle[0])
    tokenizer = AutoTokenizer.from_pretrained(bundle[0])
    text = make_texts(1, seed=9)[0]["text"]
    logits = model(**tokenizer(text, truncation=True, max_length=48, return_tensors="pt")).logits
    assert isinstance(logits, torch.Tensor)
    np.testing.assert_allclose(logits.numpy(), [Engine.load(bundle[0]).logits((text, None))], atol=1e-5)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_the_model_card_is_read_by_the_hub(bundle: Sealed) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(bundle[0] / "README.md")
    (result,) = card.data.eval_results
    manifest = bundles.read(bundle[0])
    assert (result.metric_type, result.metric_value) == ("f1", manifest.value)
    assert card.data.pipeline_tag == "text-classification"
    assert all(one.name in card.text for one in manifest.candidates)
    assert manifest.golden[0].text in card.text
    assert "{{" not in card.content


def test_the_report_stands_alone(bundle: Sealed) -> None:
    page = (bundle[0] / "report.html").read_text()
    assert "<svg" in page
    assert all(name in page for name in CANDIDATES)


def test_no_candidate_within_the_drop_leaves_no_bundle(run: Path, tmp_path: Path, quick: Path) -> None:
    folder = tmp_path / "bundles/tiny"
    with pytest.raises(GateError, match=r"no quantized candidate loses at most -1; no bundle was made") as caught:
        export(str(run), folder, max_drop=-1.0, target="avx2")
    assert caught.value.exit_code == 1
    assert "int8-unsigned-fused" in str(caught.value)
    assert "int8-signed" not in str(caught.value)  # saturates on that target
    assert nothing_is_left(folder, quick)


def test_a_graph_that_differs_from_pytorch_leaves_no_bundle(
    run: Path, tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_well = convert.to_onnx

    def convert_badly(model: Path, settings: TaskSettings, folder: Path) -> Path:
        """The right graph with a classifier's bias that is a little off."""
        path = convert_well(model, settings, folder)
        graph = onnx.load(path)
        (bias,) = [one for one in graph.graph.initializer if one.name == "classifier.bias"]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.002), bias.name))
        onnx.save(graph, path)
        return path

    monkeypatch.setattr(convert, "to_onnx", convert_badly)
    # 0.002 give or take what the two runtimes differ by, which is another figure on each CPU
    with pytest.raises(GateError, match=r"is not the PyTorch model: largest \|Δlogit\| 0\.00\d+ on 256 texts"):
        export(str(run), tmp_path / "bundles/tiny", max_drop=0.01)
    assert nothing_is_left(tmp_path / "bundles/tiny", quick)


def test_an_existing_bundle_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export(str(run), folder, max_drop=0.01)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]


def test_wrong_input_is_refused_before_any_work(tiny_model: Path, tmp_path: Path, quick: Path) -> None:
    with pytest.raises(InputError, match="architectures is BertModel, none of"):
        export(str(tiny_model), tmp_path / "bundles/tiny", max_drop=0.01)
    with pytest.raises(InputError, match="target 'pentium' is unknown"):
        export(str(tiny_model), tmp_path / "bundles/tiny", max_drop=0.01, target="pentium")
    assert nothing_is_left(tmp_path / "bundles/tiny", quick)


@pytest.mark.parametrize(
    ("target", "here", "saturates"),
    [
        ("auto", "avx2", None),
        ("auto", "avx512_vnni", None),
        ("avx512_vnni", "avx512_vnni", None),
        ("arm64", "avx512_vnni", None),
        ("avx2", "avx512_vnni", "avx2"),
        ("avx512", "avx512", "avx512"),
        ("avx512_vnni", "avx2", "avx2"),
    ],
)
def test_signed_weights_are_left_out_where_they_would_answer_otherwise(
    target: str, here: str, saturates: str | None
) -> None:
    reason = signed_left_out(target, here)
    assert (reason is None) == (saturates is None)
    assert reason is None or f"class {saturates} saturate" in reason


def test_a_bundle_does_not_lean_on_where_it_was_made(bundle: Sealed, tmp_path: Path) -> None:
    shutil.copytree(bundle[0], tmp_path / "moved")
    assert len(Engine.load(tmp_path / "moved").predict([("a film", None)])) == 1
