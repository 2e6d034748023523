"""What may be exported, and what is refused before anything is computed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import transformers

from bertline.artifacts import files
from bertline.artifacts.errors import DamagedError, InputError
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import Decision, Tokens
from bertline.export import sources
from bertline.models.pytorch import PyTorchRuntime
from bertline.serve.http import shelf
from tests.conftest import classifier
from tests.export.conftest import write_texts
from tests.export.conversion.test_convert import change_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.jsonl", 20)


def test_a_run_brings_its_labels_length_metric_and_validation_texts(run: Path) -> None:
    origin = sources.read(str(run), None)
    assert (origin.kind, origin.name, origin.model) == ("run", "tiny", "pkg://somewhere/tiny")
    assert (origin.settings, origin.metric) == (classifier(48), "f1")
    assert origin.folder == run / "best"
    assert (len(origin.examples), origin.data) == (200, None)
    assert [example.gold for example in origin.examples[:3]] == ["negative", "positive", "negative"]


def test_a_run_may_be_measured_on_other_texts(run: Path, data: Path) -> None:
    origin = sources.read(str(run), data)
    assert (len(origin.examples), origin.data) == (20, files.entry(data))


def test_a_run_of_before_has_no_provenance(run: Path, tmp_path: Path) -> None:
    older = RunFolder(Path(shutil.copytree(run, tmp_path / "older")))
    older.recipe.unlink()
    summary = json.loads(older.summary.read_text())
    del summary["provenance"]
    files.write_json(older.summary, summary)
    source = sources.read(str(older.path), None).source(tmp_path / "bundle")
    assert (source.recipe, source.provenance, source.revision) == (None, None, None)


def test_a_model_brings_its_labels_and_positions(tiny_classifier: Path, data: Path) -> None:
    origin = sources.read(str(tiny_classifier), data)
    assert (origin.kind, origin.name) == ("model", "classifier")
    assert (origin.settings, origin.metric) == (classifier(64), "accuracy")


def test_labels_of_data_may_be_indices(tiny_classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\ngood,1\nbad,0\n")
    origin = sources.read(str(tiny_classifier), tmp_path / "texts.csv")
    assert [example.gold for example in origin.examples] == ["positive", "negative"]


def test_rows_that_repeat_others_are_left_out(tiny_classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\ngood,1\nbad,0\ngood,1\ngood,0\n")
    origin = sources.read(str(tiny_classifier), tmp_path / "texts.csv")
    assert [tuple(one) for one in origin.examples] == [
        ("good", None, "positive"), ("bad", None, "negative"), ("good", None, "negative"),
    ]  # fmt: skip
    assert origin.repeated == 1


def test_a_local_place_is_told_relative_to_the_bundle(run: Path, tmp_path: Path) -> None:
    source = sources.read(str(run), None).source(run.parent.parent / "bundles/tiny")
    assert source.place == f"../../{run.parent.name}/tiny"
    assert source.model == "pkg://somewhere/tiny"
    assert len(source.weights_sha256) == 64


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/home/alice/customers/texts.csv", "texts.csv"),
        ("~/customers/*.jsonl", "*.jsonl"),
        ("../customers/model/", "model"),
        ("organization/name@v1", "organization/name@v1"),
        ("pkg://package/texts.csv", "pkg://package/texts.csv"),
    ],
)
def test_an_option_is_recorded_without_the_folders_of_a_local_path(place: str, name: str) -> None:
    assert sources.base_name(place) == name


def test_a_file_may_call_its_columns_otherwise(tiny_classifier: Path, tmp_path: Path) -> None:
    data = tmp_path / "texts.csv"
    data.write_text("text,body,more,queue\na,good,x,1\na,bad,y,negative\n")
    named = {"text": "body", "label": "queue"}
    origin = sources.read(str(tiny_classifier), data, columns=named)
    assert [tuple(one) for one in origin.examples] == [("good", None, "positive"), ("bad", None, "negative")]
    pairs = sources.read(str(tiny_classifier), data, columns={**named, "text_pair": "more"})
    assert pairs.texts == [("good", "x"), ("bad", "y")]
    with pytest.raises(InputError, match=r"no column 'words'; it has text, body, more, queue; .* --column label="):
        sources.read(str(tiny_classifier), data, columns={**named, "text": "words"})
    with pytest.raises(InputError, match="no column is called 'body' here; known are text, label"):
        sources.read(str(tiny_classifier), data, columns={"body": "text"})
    with pytest.raises(InputError, match="--column names columns of labelled examples: add --data FILE"):
        sources.read(str(tiny_classifier), None, columns=named)


def test_every_fault_of_a_bare_encoder_is_told(tiny_model: Path) -> None:
    with pytest.raises(InputError) as caught:
        sources.read(str(tiny_model), None)
    assert len(caught.value.faults) == 2
    assert (
        "architectures is BertModel, none of ForSequenceClassification, ForTokenClassification"
        in caught.value.faults[0]
    )
    assert "--data" in caught.value.faults[1]


@pytest.mark.parametrize(
    ("keys", "problem", "labels"),
    [
        ({}, "single_label_classification", ["negative", "positive"]),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification", ["negative", "positive"]),
        ({"problem_type": "regression", "id2label": {"0": "score"}}, "regression", ["score"]),
        ({"problem_type": "multi_label_classification", "id2label": {"0": "a"}}, "multi_label_classification", ["a"]),
    ],
)
def test_a_models_own_config_says_what_its_head_is_for(
    tiny_classifier: Path, tmp_path: Path, keys: dict[str, object], problem: str, labels: list[str]
) -> None:
    change_config(tiny_classifier, **keys)
    gold = "0.5" if problem == "regression" else labels[0]
    (tmp_path / "texts.csv").write_text(f"text,label\ngood,{gold}\n")
    origin = sources.read(str(tiny_classifier), tmp_path / "texts.csv")
    assert (origin.settings.problem_type, origin.settings.labels) == (problem, labels)
    assert origin.settings.tokens == Tokens(max_length=64)
    assert origin.metric == origin.settings.scores[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"problem_type": "ordinal"},
            "problem_type: found 'ordinal'; expected one of single_label_class",
        ),
        ({"problem_type": "regression"}, "problem_type: a regression with 2 outputs; bertline supports one"),
        (
            {"id2label": {"0": "fits"}},
            "problem_type: none, with one label, 'fits'; set it to regression to get its logit, or multi_",
        ),
        (
            {"id2label": {"0": "fits"}, "problem_type": "single_label_classification"},
            "problem_type: single_label_classification, with one label, 'fits'; set it to regression",
        ),
        (
            {"id2label": {"0": "good", "1": "good"}},
            "id2label: 'good' occurs twice; answers are told apart by",
        ),
        ({"architectures": ["BertForTokenClassification"], "id2label": {"0": "O"}}, "id2label: only O; a tagger"),
        (
            {"architectures": ["BertForTokenClassification"], "id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
            "id2label: found LABEL_0, LABEL_1; name the tags (O, B-PER, …), or O would be taken for an entity",
        ),
    ],
)
def test_a_head_that_bertline_has_no_answer_for_is_refused(
    tiny_classifier: Path, data: Path, keys: dict[str, object], words: str
) -> None:
    change_config(tiny_classifier, **keys)
    with pytest.raises(InputError, match=re.escape(f"{tiny_classifier / 'config.json'}: {words}")):
        sources.read(str(tiny_classifier), data)


def test_a_file_of_a_hub_clients_cache_is_changed_in_a_copy(
    tiny_classifier: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tiny_classifier.rename(tiny_classifier.with_name("a" * 40))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: cached)
    change_config(cached, id2label={"0": "fits"})
    with pytest.raises(InputError, match=r"of it, in a copy: hf download org/name --revision v1 --local-dir FOLDER$"):
        sources.read("org/name@v1", data)


def test_a_hub_clients_folder_named_by_its_path_is_copied(tiny_classifier: Path, data: Path) -> None:
    cached = tiny_classifier.rename(tiny_classifier.with_name("a" * 40))
    change_config(cached, id2label={"0": "fits"})
    with pytest.raises(InputError, match=re.escape(f"of it, in a copy: cp -rL {cached} FOLDER") + "$"):
        sources.read(str(cached), data)


def test_a_token_without_an_embedding_is_told_before_anything_is_converted(
    tiny_classifier: Path, data: Path, tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_classifier)
    tokenizer.add_tokens(["unheard-of"])
    tokenizer.save_pretrained(tiny_classifier)
    origin = sources.read(str(tiny_classifier), data)
    with pytest.raises(InputError, match=r"its tokenizer has ids up to (\d+), but the model has embeddings for \1;"):
        sources.with_tokenizer(origin, tmp_path / "made")


def test_data_that_names_what_the_model_does_not_is_told_where_to(tiny_classifier: Path, data: Path) -> None:
    change_config(tiny_classifier, id2label=None)
    with pytest.raises(InputError) as caught:
        sources.read(str(tiny_classifier), data)
    unknown, advice = caught.value.faults
    assert "unknown label 'negative'; known are LABEL_0, LABEL_1" in unknown
    assert advice == f"{tiny_classifier / 'config.json'}: name the outputs 0, 1, … in id2label as the data does"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "config.json and weights do not fit: classifier.bias has"),
        ({"hidden_size": "48"}, "not a model ForSequenceClassification ("),
    ],
)
def test_a_config_of_other_weights_is_one_line(tiny_classifier: Path, keys: dict[str, object], words: str) -> None:
    change_config(tiny_classifier, **keys)
    with pytest.raises(InputError, match=re.escape(f"{tiny_classifier}: {words}")) as caught:
        PyTorchRuntime(tiny_classifier, "ForSequenceClassification", threads=1)
    assert "\n" not in str(caught.value)


def test_a_model_is_called_as_its_folder(tiny_classifier: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_classifier)
    assert sources.read(".", data).name == tiny_classifier.name


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("org/model", "model"),
        ("org/model@main", "model"),
        ("org/model@refs/pr/1", "model"),
        ("pkg://package/model", "model"),
        ("runs/my films (2)", "my-films-2"),
        ("runs/films/", "films"),
        ("runs/films/../other", "other"),
        ("/", "model"),
        ("runs/-..", "model"),
    ],
)
def test_a_bundle_is_called_by_a_name_that_can_be_served(place: str, name: str) -> None:
    assert sources.called(place) == name
    assert re.fullmatch(shelf.NAME, name)


def test_heads_on_tokens_read_all_of_a_text(tiny_classifier: Path, tmp_path: Path) -> None:
    tags = {"0": "O", "1": "B-C", "2": "I-C"}
    change_config(tiny_classifier, architectures=["BertForTokenClassification"], id2label=tags)
    (tmp_path / "texts.conll").write_text("Bonn B-C\nis O\n")
    origin = sources.read(str(tiny_classifier), tmp_path / "texts.conll")
    assert (origin.settings.task, origin.settings.labels) == ("token-classification", ["O", "B-C", "I-C"])
    assert origin.settings.tokens == Tokens(max_length=64, stride=16, long="windows")
    change_config(tiny_classifier, architectures=["BertForQuestionAnswering"])
    row = {"question": "where?", "context": "in Bonn", "answers": [{"text": "Bonn", "start": 3}]}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row) + "\n")
    origin = sources.read(str(tiny_classifier), tmp_path / "texts.jsonl")
    assert (origin.settings.task, origin.settings.labels, origin.metric) == ("question-answering", [], "f1")


@pytest.mark.parametrize(("answers", "threshold"), [([{"text": "Bonn", "start": 3}], None), ([], 0.0)])
def test_a_model_may_give_no_answer_where_some_questions_have_none(
    tiny_classifier: Path, tmp_path: Path, answers: list[dict[str, object]], threshold: float | None
) -> None:
    change_config(tiny_classifier, architectures=["BertForQuestionAnswering"])
    row = {"question": "where?", "context": "in Bonn", "answers": [{"text": "Bonn", "start": 3}]}
    rows = [row, {**row, "answers": answers}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    origin = sources.read(str(tiny_classifier), tmp_path / "texts.jsonl")
    assert origin.settings.decision == Decision(no_answer_threshold=threshold)


def test_a_config_that_names_code_is_refused(tiny_classifier: Path, data: Path) -> None:
    change_config(tiny_classifier, _attn_implementation_internal="someone/kernel")
    with pytest.raises(InputError, match="_attn_implementation_internal"):
        sources.read(str(tiny_classifier), data)


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half/run.json").unlink()
    with pytest.raises(InputError, match="did not finish"):
        sources.read(str(tmp_path / "half"), None)


def test_a_run_whose_model_was_changed_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "changed")
    change_config(tmp_path / "changed/best", hidden_dropout_prob=0.5)
    with pytest.raises(DamagedError, match=r"config\.json"):
        sources.read(str(tmp_path / "changed"), None)


def test_a_run_that_went_by_its_loss_is_measured_by_accuracy(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "loss")
    summary = tmp_path / "loss/run.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "metric": "loss"}))
    assert sources.read(str(tmp_path / "loss"), None).metric == "accuracy"


def test_an_unknown_label_is_told_with_its_row(tiny_classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\ngood,positive\nwell,mixed\n")
    with pytest.raises(InputError, match=r"texts\.csv row 3: unknown label 'mixed'"):
        sources.read(str(tiny_classifier), tmp_path / "texts.csv")


def test_data_without_labels_is_told_with_its_columns(run: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,queue\ngood,1\nbad,0\n")
    with pytest.raises(
        InputError, match=r"texts.csv has no column 'label'; it has text, queue; labelled examples have"
    ):
        sources.read(str(run), tmp_path / "texts.csv")


def test_a_model_may_be_held_to_another_score(tiny_classifier: Path, data: Path) -> None:
    origin = sources.read(str(tiny_classifier), data)
    assert (origin.metric, sources.held_to(origin, "f1").metric) == ("accuracy", "f1")
    with pytest.raises(InputError, match="--metric: found 'spearman'; this task is measured in accuracy, "):
        sources.held_to(origin, "spearman")
