"""From a run to a bundle, and all the failures that leave none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from jsonschema import Draft202012Validator
from onnx import numpy_helper

from bertline.artifacts import bundle as bundles
from bertline.artifacts import files, machine
from bertline.artifacts.errors import DamagedError, GateError, InputError, install_advice
from bertline.artifacts.files import FileEntry
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import Decision, TaskSettings, Tokens
from bertline.export import choose
from bertline.export.candidates.plans import PLANS
from bertline.export.contest import SHARES
from bertline.export.conversion import convert
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.sealing import card
from bertline.launch import inspect
from bertline.serve import variants
from bertline.serve.engine import Bundle, Engine
from bertline.tasks import catalog
from bertline.tasks.tokens import Text, Tokenizer
from tests.conftest import WORDS, make_texts, with_vocabulary_alone
from tests.export.conftest import PROVENANCE, measure_briefly

Sealed = tuple[Path, dict[str, Any], list[str]]
QUICK = ExportOptions(0.05, quick=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Brief timing, and a folder of our own for temporary files: returned, to see what is left there."""
    measure_briefly(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def nothing_is_left(bundle: Path, temporary: Path) -> bool:
    return not bundle.parent.exists() and list(temporary.iterdir()) == []


def test_the_end_by_a_signal_leaves_nothing(run: Path, tmp_path: Path) -> None:
    """Simulates a scheduler that ends the export midway, with graphs in the temporary folder."""
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "bertline.launch.command", "export", "--max-drop", "0.05"]
    line = [*command, str(run), "-o", str(tmp_path / "bundles" / "tiny")]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        said = next(each for each in process.stderr if each.startswith(("comparing", "Traceback")))
        process.terminate()
        rest = process.stderr.read()
    assert said == "comparing with PyTorch\n"
    assert (process.returncode, "Traceback" in rest) == (128 + signal.SIGTERM, False), rest
    assert nothing_is_left(tmp_path / "bundles" / "tiny", tmp_path / "temporary")


def test_the_exact_files_of_a_bundle(bundle: Sealed) -> None:
    assert [entry.path for entry in files.listing(bundle[0])] == [
        "README.md",
        "bertline.json",
        "config.json",
        *sorted({"onnx/model.onnx", bundles.read(bundle[0]).runtime.model}),
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
    assert (manifest.fidelity.texts, manifest.fidelity.adversarial_texts) == (256, 22)
    assert max(manifest.fidelity.max_abs_logit_diff, manifest.fidelity.max_abs_padding_diff) <= 1e-3
    assert manifest.fidelity.tokens_compared > 3_000
    assert manifest.baseline > 0.9
    assert manifest.drop == pytest.approx(manifest.baseline - manifest.value)
    assert (bundle[0] / manifest.source.place).resolve() == run
    assert 4 <= len(manifest.golden) <= 8


def test_a_bundle_tells_what_it_was_made_of_where_the_run_is_gone(bundle: Sealed, tmp_path: Path) -> None:
    told = inspect.facts(Path(shutil.copytree(bundle[0], tmp_path / "tiny")))
    assert told["source"]["recipe"] == {"name": "tiny", "deepspeed": {}}, "without the addresses of its monitors"
    assert told["source"]["provenance"] == PROVENANCE.model_dump(mode="json")
    assert (told["options"]["max_drop"], told["options"]["prefer"], told["options"]["only"]) == (0.05, "latency", [])
    assert told["data"] is None, "measured on the run's validation split"
    assert told["sha256"] == files.sha256(bundle[0] / "bertline.json")
    assert told["version"] == told["sha256"][:12], "as a server tells it"


def test_the_manifest_is_valid_by_the_published_schema(bundle: Sealed) -> None:
    schema = json.loads(Path(__file__).parents[2].joinpath("docs/bertline.schema.json").read_text())
    Draft202012Validator(schema).validate(json.loads((bundle[0] / "bertline.json").read_text()))


def test_words_that_change_places_are_noticed_by_the_golden_texts(bundle: Sealed, tmp_path: Path) -> None:
    """With size and hash put right."""
    folder = Path(shutil.copytree(bundle[0], tmp_path / "changed"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    asked = " ".join(golden.text for golden in bundles.read(folder).golden).split()
    positive, negative = (next(word for word in WORDS[label] if word in asked) for label in ("positive", "negative"))
    words[positive], words[negative] = words[negative], words[positive]
    files.write_json(folder / "tokenizer.json", tokenizer)
    manifest = json.loads((folder / "bertline.json").read_text())
    listed = [entry.model_dump() for entry in files.listing(folder) if entry.path != "bertline.json"]
    files.write_json(folder / "bertline.json", manifest | {"files": listed})
    with pytest.raises(DamagedError, match=r"golden text \d: logits differ by"):
        Engine.load(folder)


def test_every_candidate_is_told_with_its_figures_and_a_reason(bundle: Sealed) -> None:
    manifest = bundles.read(bundle[0])
    names = [one.name for one in manifest.candidates]
    assert {"fp32", "fp32-fused", "fp32-openvino", "int8-unsigned-fused", "int8-nncf-openvino"} < set(names)
    left_out = " ".join(manifest.notices)
    assert all(plan.name in names or plan.name in left_out for plan in PLANS)
    lengths = [len(one.input_ids) for one in Engine.load(bundle[0]).tokenizer.encode(texts_of(manifest, bundle[0]))]
    for one in manifest.candidates:
        assert [int(point.removeprefix("1x")) for point in one.p50_ms] == sorted(
            {*np.quantile(lengths, SHARES).astype(int)}
        )
        assert all(ms > 0 for ms in one.p50_ms.values())
        assert one.why
        if one.drop is not None and one.drop_interval is not None:
            assert one.drop_interval[0] <= one.drop <= one.drop_interval[1]
    chosen = manifest.chosen
    assert chosen.name.startswith("int8")
    assert chosen.size_bytes == (bundle[0] / manifest.runtime.model).stat().st_size
    assert chosen.drop_interval is not None
    assert chosen.drop_interval[1] <= 0.05


def texts_of(manifest: bundles.Manifest, folder: Path) -> list[Text]:
    """What the candidates were measured on."""
    run = RunFolder((folder / manifest.source.place).resolve())
    return [example.texts for example in catalog.make(manifest).read_file(run.split("validation"))]


def test_what_is_answered_is_what_the_manifest_says(bundle: Sealed) -> None:
    folder, result, said = bundle
    manifest = bundles.read(folder)
    assert result["bundle"] == str(folder)
    assert result["chosen"] == manifest.chosen.name
    assert result["candidates"] == [one.model_dump(mode="json") for one in manifest.candidates]
    assert set(result) >= {"metric", "baseline", "drop", "fidelity", "target", "measured_on", "notices"}
    assert json.loads(json.dumps(result)) == result
    assert any("chosen: the fastest" in line for line in said)


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
    from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

    read = ModelCard.load(bundle[0] / "README.md")
    (result,) = read.data.eval_results
    manifest = bundles.read(bundle[0])
    assert (result.metric_type, result.metric_value, result.metric_name) == ("f1", manifest.value, "f1")
    assert (result.task_type, result.dataset_split) == ("text-classification", "validation")
    assert result.dataset_name == "200 labelled texts, on which candidates were compared"
    index = eval_results_to_model_index(read.data.model_name, read.data.eval_results)
    assert model_index_to_eval_results(index) == ("tiny", [result])
    assert (read.data.pipeline_tag, read.data.library_name) == ("text-classification", "optimum")
    assert "base_model" not in read.data.to_dict()  # it is none of the hub's
    assert all(one.name in read.text for one in manifest.candidates)
    assert manifest.golden[0].text in read.text
    assert "{{" not in read.content


@pytest.mark.parametrize(("file", "kind"), [("reviews.csv", "reviews.csv"), ("my reviews.csv", "my-reviews.csv")])
def test_the_model_card_names_the_file_that_was_measured_on(bundle: Sealed, file: str, kind: str) -> None:
    """A hub takes no blank in a kind of data set."""
    data = FileEntry(path=file, size_bytes=1, sha256="0" * 64)
    written = card.card(bundles.read(bundle[0]).model_copy(update={"data": data}), {"1x16": 1.0}, 1)
    (index,) = yaml.safe_load(written.split("---\n")[1])["model-index"]
    name = f"200 labelled texts of {file}, on which candidates were compared"
    assert index["results"][0]["dataset"] == {"type": kind, "name": name}


@pytest.mark.parametrize("name", ["int8-signed-fused", "fp32-openvino", "int4-weights"])
def test_the_model_card_is_tagged_by_the_bits_of_the_chosen_model(bundle: Sealed, name: str) -> None:
    manifest = bundles.read(bundle[0])
    candidates = [one.model_copy(update={"name": name}) if one.chosen else one for one in manifest.candidates]
    written = card.card(manifest.model_copy(update={"candidates": candidates}), {"1x16": 1.0}, 1)
    metadata = yaml.safe_load(written.split("---\n")[1])
    assert {"int8", "fp32", "int4"} & set(metadata["tags"]) == {name.partition("-")[0]}


def test_the_model_card_asks_with_an_empty_second_text_as_with_another(bundle: Sealed) -> None:
    manifest = bundles.verify(bundle[0])
    golden = [manifest.golden[0].model_copy(update={"text": "a film", "text_pair": ""})]
    written = card.card(manifest.model_copy(update={"golden": golden}), {"1x16": 1.0}, 1)
    assert 'model.predict([("a film", "")])' in written
    assert 'tokenizer("a film", "", truncation=True' in written


@pytest.mark.parametrize(("text", "line"), [("a film", "predict . 'a film'"), ("-5 stars", "predict . -- '-5 stars'")])
def test_the_model_card_asks_with_a_text_that_is_no_option(bundle: Sealed, text: str, line: str) -> None:
    manifest = bundles.verify(bundle[0])
    golden = [manifest.golden[0].model_copy(update={"text": text})]
    written = card.card(manifest.model_copy(update={"golden": golden}), {"1x16": 1.0}, 1)
    assert f"\nbertline {line}\n" in written


@pytest.mark.parametrize(("long", "words"), [("head", "cut at"), ("windows", "read in windows of")])
def test_the_model_card_tells_how_texts_were_read(bundle: Sealed, long: str, words: str) -> None:
    manifest = bundles.verify(bundle[0])
    tokens = manifest.tokens.model_copy(update={"long": long})
    written = card.card(manifest.model_copy(update={"tokens": tokens}), {"1x16": 1.0}, 1)
    assert f"compared, {words} {tokens.max_length} tokens;" in written


def test_the_model_card_tells_from_which_probability_on_each_of_several_labels_is_given(bundle: Sealed) -> None:
    manifest = bundles.read(bundle[0])
    several = {"problem_type": "multi_label_classification", "decision": Decision(thresholds=[0.25, 0.5])}
    written = card.card(manifest.model_copy(update=several), {"1x16": 1.0}, 1)
    assert "threshold |\n| --- | --- |\n| negative | 0.2500 |\n| positive | 0.5000 |\n\n## Measured\n" in written
    assert "threshold" not in card.card(manifest, {"1x16": 1.0}, 1)


def test_the_model_card_names_what_is_found_with_prefixes_or_without(bundle: Sealed) -> None:
    tagger = {"task": "token-classification", "problem_type": None, "labels": ["O", "PER", "B-LOC", "I-LOC"]}
    manifest = bundles.read(bundle[0]).model_copy(update=tagger)
    assert "Finds entities in a text: PER, LOC." in card.card(manifest, {"1x16": 1.0}, 1)


def test_the_report_stands_alone(bundle: Sealed) -> None:
    page = (bundle[0] / "report.html").read_text()
    assert "<svg" in page
    assert all(one.name in page for one in bundles.read(bundle[0]).candidates)


def test_no_candidate_within_the_drop_leaves_no_bundle(run: Path, tmp_path: Path, quick: Path) -> None:
    folder = tmp_path / "bundles/tiny"
    options = ExportOptions(0.05, target="avx2", quick=True, max_size=0.001)
    with pytest.raises(GateError, match=r"no candidate is shown to lose at most 0.05; no bundle was made") as caught:
        export(str(run), folder, options)
    assert caught.value.exit_code == 1
    assert "int8-signed-fused  not scored" in str(caught.value)
    assert "MB, more than --max-size 0.001" in str(caught.value)
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
    with pytest.raises(GateError, match=r"differs from the PyTorch model: largest \|Δlogit\| 0\.00\d+ on 256 texts"):
        export(str(run), tmp_path / "bundles/tiny", QUICK)
    assert nothing_is_left(tmp_path / "bundles/tiny", quick)


def test_too_few_examples_are_told_before_any_candidate_is_timed(run: Path, tmp_path: Path, quick: Path) -> None:
    said: list[str] = []
    expected = r"200 examples cannot show a drop of at most 0\.01, .*: about 367 would suffice; .* --max-drop 0\.0183"
    with pytest.raises(GateError, match=expected):
        export(str(run), tmp_path / "bundles/tiny", ExportOptions(0.01), say=said.append)
    assert not [line for line in said if "timed" in line]
    assert nothing_is_left(tmp_path / "bundles/tiny", quick)


def test_a_model_with_a_vocabulary_alone_gets_a_tokenizer_json(run: Path, tmp_path: Path, quick: Path) -> None:
    """What transformers reads of the model itself is what the bundle reads."""
    older = with_vocabulary_alone(run / "best", tmp_path / "older")
    data = RunFolder(run).split("validation")
    export(str(older), tmp_path / "bundle", QUICK, data)
    assert bundles.verify(tmp_path / "bundle").fidelity.tokens_compared > 3_000
    own, theirs = (
        Tokenizer(folder, Tokens(max_length=48)).encode([("a great film", None)])[0].input_ids.tolist()
        for folder in (tmp_path / "bundle", run / "best")
    )
    assert own == theirs
    assert sorted(path.name for path in older.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert list(quick.iterdir()) == []


def test_a_model_without_a_tokenizer_is_told_before_it_is_converted(run: Path, tmp_path: Path, quick: Path) -> None:
    none = with_vocabulary_alone(run / "best", tmp_path / "none")
    (none / "vocab.txt").unlink()
    said: list[str] = []
    with pytest.raises(InputError, match=f"^{none}: no tokenizer.json, and none can be made of what is there"):
        export(str(none), tmp_path / "bundles/none", QUICK, RunFolder(run).split("validation"), said.append)
    assert [line for line in said if "converting" in line] == []
    assert nothing_is_left(tmp_path / "bundles/none", quick)


def test_an_existing_bundle_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export(str(run), folder, QUICK)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]


def test_wrong_input_is_refused_before_any_work(tiny_model: Path, tmp_path: Path, quick: Path) -> None:
    with pytest.raises(InputError, match="architectures is BertModel, none of"):
        export(str(tiny_model), tmp_path / "bundles/tiny", QUICK)
    with pytest.raises(InputError, match="target 'pentium' is unknown"):
        export(str(tiny_model), tmp_path / "bundles/tiny", ExportOptions(0.05, target="pentium"))
    with pytest.raises(InputError, match="layout 'onnx' is unknown; it is one of huggingface, triton"):
        export(str(tiny_model), tmp_path / "bundles/tiny", ExportOptions(0.05, layout="onnx"))
    with pytest.raises(InputError, match="--only int8signed: no such candidate; there are fp32, "):
        export(str(tiny_model), tmp_path / "bundles/tiny", ExportOptions(0.05, only=("int8signed",)))
    with pytest.raises(InputError, match="--only fp32-openvino: "):
        export(
            str(tiny_model), tmp_path / "bundles/tiny", ExportOptions(0.05, only=("fp32-openvino",), layout="triton")
        )
    assert nothing_is_left(tmp_path / "bundles/tiny", quick)


def test_a_bundle_does_not_lean_on_where_it_was_made(bundle: Sealed, tmp_path: Path) -> None:
    shutil.copytree(bundle[0], tmp_path / "moved")
    assert len(Engine.load(tmp_path / "moved").predict([("a film", None)])) == 1


def test_a_portable_bundle_has_one_model_for_every_cpu(run: Path, tmp_path: Path, quick: Path) -> None:
    """Signed weights have seven bits, so that whichever candidate is chosen is right everywhere."""
    folder = tmp_path / "bundle"
    export(str(run), folder, ExportOptions(0.05, quick=True, portable=True))
    manifest = bundles.verify(folder)
    assert (manifest.runtime.model, manifest.runtime.cpu_classes) == ("onnx/model.onnx", [])
    assert manifest.variants == []
    assert Bundle(folder).notice is None


def test_a_cpu_that_the_chosen_model_is_not_for_takes_the_other(
    run: Path, tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in blocks have kernels of their own on each class of CPU."""
    monkeypatch.setattr(choose, "order", lambda trial, options: (trial.plan.method != "weights", trial.milliseconds))
    folder = tmp_path / "bundle"
    export(str(run), folder, ExportOptions(0.05, only=("int8-weights", "int8-signed"), portable=True))
    manifest, here = bundles.read(folder), machine.cpu_class()
    assert manifest.runtime.model == f"onnx/model_int8_weights_{here}.onnx"
    assert manifest.runtime.cpu_classes == [here]
    assert [(one.runtime.model, one.runtime.cpu_classes) for one in manifest.variants] == [("onnx/model.onnx", [])]
    monkeypatch.setattr(machine, "cpu_class", lambda: "x86")
    opened = Bundle(folder)
    assert len(opened.engine().predict([("a film", None)])) == 1
    assert opened.notice == f"{manifest.runtime.model} is not for CPUs of class x86: int8-signed on onnxruntime answers"


def test_a_bundle_for_openvino_answers_without_it(
    run: Path, tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    result = export(str(run), folder, ExportOptions(0.2, only=("int8-nncf-openvino",)))
    assert result["chosen"] == "int8-nncf-openvino"
    manifest = bundles.verify(folder)
    assert (manifest.runtime.name, manifest.runtime.model) == ("openvino", "onnx/model_openvino.onnx")
    assert [one.candidate for one in manifest.variants] == ["fp32"]
    one = Bundle(folder)
    assert one.notice is None
    monkeypatch.setattr(variants, "installed", lambda name: name == "onnxruntime")
    other = Bundle(folder)
    assert other.notice is not None
    assert other.notice.startswith(f"openvino is not installed ({install_advice('openvino')}): fp32 on onnxruntime")
    texts = [(row["text"], None) for row in make_texts(20, seed=9)]
    labels = [[answer["label"] for answer in opened.engine().predict(texts)] for opened in (one, other)]
    assert np.mean(np.array(labels[0]) == np.array(labels[1])) >= 0.9
