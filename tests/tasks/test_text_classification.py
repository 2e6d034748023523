"""Reading, decoding and scoring, against hand-worked cases and scikit-learn's report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, classification_report

from bertline.artifacts.errors import InputError
from bertline.tasks import text_classification as task
from bertline.tasks.text_classification import Columns, Example

COLUMNS = Columns("review", None, "stars")


def logits(predicted: list[int], labels: int) -> task.Logits:
    return np.eye(labels, dtype=np.float32)[predicted]


@pytest.mark.parametrize(("label", "name"), [("good", "good"), (1, "1"), (0, "0"), (True, "True")])
def test_a_row_becomes_an_example(label: object, name: str) -> None:
    assert task.read({"review": "fine", "stars": label, "x": 1}, COLUMNS, "row 2") == Example("fine", None, name)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"review": "fine"}, "row 2: no label in column 'stars'"),
        ({"review": "fine", "stars": ""}, "row 2: no label"),
        ({"review": "fine", "stars": None}, "row 2: no label"),
        ({"review": "fine", "stars": 0.5}, "row 2: label 0.5 is a float"),
        ({"review": 5, "stars": "a"}, "row 2: column 'review' holds a int"),
        ({"review": None, "stars": "a"}, "row 2: column 'review' holds nothing"),
        ({"review": "\ud800", "stars": "a"}, "row 2: column 'review' holds a lone surrogate"),
    ],
)
def test_a_bad_row_is_told_with_its_place(row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        task.read(row, COLUMNS, "row 2")


def test_a_pair_needs_both_texts() -> None:
    columns = Columns("premise", "hypothesis", "label")
    row = {"premise": "a", "hypothesis": "b", "label": "no"}
    assert task.read(row, columns, "row 2").texts == ("a", "b")
    with pytest.raises(InputError, match="'hypothesis' holds nothing"):
        task.read({"premise": "a", "label": "no"}, columns, "row 2")


def test_labels_may_be_names_or_indices(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": "bad"}\n')
    assert [example.label for example in task.read_labelled(path, ["bad", "good"])] == ["good", "bad"]
    path.write_text('{"text": "a", "label": 2}\n')
    with pytest.raises(InputError, match=r"line 1: unknown label '2'; known are bad, good, or 0 to 1"):
        task.read_labelled(path, ["bad", "good"])


def test_a_split_reads_back_what_was_written(tmp_path: Path) -> None:
    examples = [Example("a", "b", "good"), Example("c", "", "bad")]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(example.row()) + "\n" for example in examples))
    assert task.read_labelled(tmp_path / "s.jsonl", ["bad", "good"]) == examples


def test_decoding_is_a_softmax() -> None:
    (answer,) = task.decode(np.array([[1000.0, 1000.0 + np.log(3.0)]], np.float64).astype(np.float32), ["no", "yes"])
    assert answer["label"] == "yes"
    assert answer["score"] == pytest.approx(0.75, abs=1e-4)
    assert answer["scores"] == pytest.approx({"no": 0.25, "yes": 0.75}, abs=1e-4)


def test_two_labels_are_scored_on_the_second() -> None:
    # truth 1 1 1 0 0, told 1 0 1 1 0: 2 hits, 1 false alarm, 1 miss
    scores = task.score(logits([1, 0, 1, 1, 0], 2), [1, 1, 1, 0, 0], ["no", "yes"])
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["precision"] == scores["recall"] == scores["f1"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["per_label"]["no"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2})


def test_more_labels_are_scored_as_the_mean_over_them() -> None:
    chance = np.random.default_rng(0)
    gold, told = chance.integers(0, 4, 200).tolist(), chance.integers(0, 3, 200).tolist()  # label 3 is never told
    names = ["a", "b", "c", "d"]
    scores = task.score(logits(told, 4), gold, names)
    report = classification_report(gold, told, target_names=names, output_dict=True, zero_division=0)
    assert scores["accuracy"] == pytest.approx(accuracy_score(gold, told))
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"), ("macro_f1", "f1-score")):
        assert scores[name] == pytest.approx(report["macro avg"][key])
    assert scores["per_label"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": gold.count(3)}
    json.dumps(scores)
