"""Reading, decoding and scoring, against hand-worked cases, scikit-learn and scipy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, classification_report, matthews_corrcoef, mean_squared_error

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision, ProblemType, TaskSettings, Tokens
from bertline.tasks.task import Answer, Columns, Example, Output
from bertline.tasks.text_classification import TextClassification
from bertline.tasks.tokens import Encoded

COLUMNS = Columns(text="review", label="stars")
NONE = np.zeros(0, np.int64)


def make(
    labels: Sequence[str] = ("bad", "good"), problem: ProblemType = "single_label_classification", **decision: Any
) -> TextClassification:
    return TextClassification(
        TaskSettings(
            task="text-classification", problem_type=problem, inputs=["text"], labels=list(labels),
            tokens=Tokens(max_length=8), decision=Decision(**decision),
        )
    )  # fmt: skip


def windows(texts: Sequence[int]) -> list[Encoded]:
    """One for each number: the text it is of."""
    return [Encoded(NONE, NONE, NONE, NONE, text, False) for text in texts]


def answer(task: TextClassification, logits: Output) -> list[Answer]:
    return task.decode([("", None)] * len(logits), windows(range(len(logits))), list(logits))


def scores(told: list[int], gold: list[int], labels: Sequence[str]) -> dict[str, Any]:
    task = make(labels)
    answers = answer(task, np.eye(len(labels), dtype=np.float32)[told])
    return task.score([Example("", None, labels[one]) for one in gold], answers)


@pytest.mark.parametrize(("label", "name"), [("good", "good"), (1, "1"), (0, "0"), (True, "True")])
def test_a_row_becomes_an_example(label: object, name: str) -> None:
    assert make().read({"review": "fine", "stars": label, "x": 1}, COLUMNS, "row 2") == Example("fine", None, name)


@pytest.mark.parametrize(
    ("label", "names"),
    [("b, a", ["a", "b"]), ("", []), ([], []), (["b", 1], ["1", "b"]), (["a", "a"], ["a"]), (["1"], ["1"])],
)
def test_several_labels_are_a_list_or_have_commas_between(label: object, names: list[str]) -> None:
    task = make(problem="multi_label_classification")
    assert task.read({"review": "fine", "stars": label}, COLUMNS, "row 2").gold == names


@pytest.mark.parametrize(("yes", "no"), [(1, 0), (1.0, 0.0), (True, False)])
def test_several_labels_may_be_a_vector_of_those_that_are_named(yes: object, no: object) -> None:
    task = make(["sad", "dull", "long"], "multi_label_classification")
    for stars, names in ([no, yes, yes], ["dull", "long"]), ([no] * 3, []):
        assert task.read({"review": "a", "stars": stars}, COLUMNS, "row 2").gold == sorted(names)
    assert task.read({"review": "a", "stars": [0, 1]}, COLUMNS, "row 2").gold == ["0", "1"]  # indices


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), (1, 0), (True, False), (1.0, 0.0), ("1.0", "0.0"), ("TRUE", " false")]
)
def test_several_labels_may_have_a_column_each(yes: object, no: object) -> None:
    task, columns = make(problem="multi_label_classification"), Columns(text="review", label=["sad", "dull", "long"])
    assert task.read({"review": "a", "sad": no, "dull": yes, "long": yes}, columns, "row 2").gold == ["dull", "long"]
    with pytest.raises(InputError, match="row 2: column 'long': found -1; the column of a label holds 1 or 0"):
        task.read({"review": "a", "sad": no, "dull": yes, "long": -1}, columns, "row 2")
    with pytest.raises(InputError, match="row 2: column 'long': found None"):
        task.read({"review": "a", "sad": no, "dull": yes}, columns, "row 2")


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), (1, 0), (True, False), ("true", "false")])
def test_the_only_label_may_be_a_yes_or_no(yes: object, no: object) -> None:
    """As for a cross-encoder with a sigmoid."""
    task = make(["fits"], "multi_label_classification")
    for stars, names in ((yes, ["fits"]), (no, []), ("fits", ["fits"]), (["fits"], ["fits"]), ("", [])):
        assert task.read({"review": "a", "stars": stars}, COLUMNS, "row 2").gold == names


@pytest.mark.parametrize(("label", "number"), [("2.5", 2.5), (3, 3.0), (-1.5, -1.5)])
def test_a_number_may_be_spelled(label: object, number: float) -> None:
    assert make(problem="regression").read({"review": "a", "stars": label}, COLUMNS, "row 2").gold == number


@pytest.mark.parametrize(
    ("problem", "row", "words"),
    [
        ("single_label_classification", {"review": "fine"}, "row 2: no label in column 'stars'"),
        ("single_label_classification", {"review": "fine", "stars": ""}, "row 2: no label"),
        ("single_label_classification", {"review": "fine", "stars": None}, "row 2: no label"),
        ("single_label_classification", {"review": "fine", "stars": 0.5}, "0.5 is a float; .* set problem_type: regr"),
        (
            "single_label_classification",
            {"review": "fine", "stars": ["a", "b"]},
            "is a list; .*multi_label_classification",
        ),
        ("single_label_classification", {"review": "fine", "stars": 1.0}, "1.0 is a float; .* write 1 if it names a"),
        ("single_label_classification", {"review": 5, "stars": "a"}, "row 2: column 'review' holds a int"),
        ("single_label_classification", {"review": None, "stars": "a"}, "row 2: column 'review' holds nothing"),
        ("single_label_classification", {"review": "\ud800", "stars": "a"}, "'review' holds a lone surrogate"),
        ("single_label_classification", {"review": "a", "stars": "\udc00"}, r"label holds a lone surrogate \(U\+DC00"),
        ("multi_label_classification", {"review": "a", "stars": ["b", "\ud800"]}, "label holds a lone surrogate"),
        ("multi_label_classification", {"review": "a", "stars": 3}, "row 2: labels 3: a list of names"),
        ("multi_label_classification", {"review": "a", "stars": "1"}, "row 2: labels '1': no label is called 1; spell"),
        ("multi_label_classification", {"review": "a", "stars": "0,1"}, "row 2: labels '0,1': no label is called 0;"),
        ("multi_label_classification", {"review": "a", "stars": "bad, 2"}, "row 2: .*: no label is called 2; spell"),
        ("multi_label_classification", {"review": "a", "stars": [0.5]}, "row 2: label 0.5 is a float"),
        ("multi_label_classification", {"review": "a", "stars": [0, 1, 0]}, r"labels \[0, 1, 0\]: a vector of 0 and 1"),
        ("multi_label_classification", {"review": "a", "stars": [False] * 3}, "row 2: labels .*: a vector of 0 and 1"),
        ("multi_label_classification", {"review": "a", "stars": "0,0,1"}, "row 2: labels .*: a vector of 0 and 1"),
        (
            "multi_label_classification",
            {"review": "a", "stars": "['b', 'c']"},
            "row 2: .*: a list, written as text",
        ),
        ("multi_label_classification", {"review": "a", "stars": "[]"}, "row 2: .*: a list, written as text"),
        ("regression", {"review": "a", "stars": "many"}, "row 2: label 'many' is no number"),
        ("regression", {"review": "a", "stars": 10**400}, "row 2: label 1000"),
        ("regression", {"review": "a", "stars": "1_0"}, "row 2: label '1_0' is no number"),
        ("regression", {"review": "a", "stars": True}, "row 2: label True is no number"),
        ("regression", {"review": "a", "stars": "nan"}, "row 2: label 'nan' is no number"),
    ],
)
def test_a_bad_row_is_told_with_its_place(problem: ProblemType, row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(problem=problem).read(row, COLUMNS, "row 2")


def test_a_pair_needs_both_texts() -> None:
    columns = Columns("premise", "hypothesis", "label")
    row = {"premise": "a", "hypothesis": "b", "label": "no"}
    assert make().read(row, columns, "row 2").texts == ("a", "b")
    with pytest.raises(InputError, match="'hypothesis' holds nothing"):
        make().read({"premise": "a", "label": "no"}, columns, "row 2")


def test_labels_may_be_names_or_indices(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": "bad"}\n')
    assert [example.gold for example in make().read_file(path)] == ["good", "bad"]
    path.write_text('{"text": "a", "label": true}\n{"text": "b", "label": false}\n')
    assert [example.gold for example in make().read_file(path)] == ["good", "bad"]
    path.write_text('{"text": "a", "label": [1, "bad"]}\n')
    assert make(problem="multi_label_classification").read_file(path)[0].gold == ["bad", "good"]
    path.write_text('{"text": "a", "label": 2}\n')
    with pytest.raises(InputError, match=r"line 1: unknown label '2'; known are bad, good, or 0 to 1"):
        make().read_file(path)


def test_a_file_may_have_a_column_for_each_label(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("comment,toxic,insult\na,1,0\nb,0,0\nc,1,1\n")
    task = make(labels=["toxic", "insult"], problem="multi_label_classification")
    found = task.read_file(path, {"text": "comment"})
    assert [example.gold for example in found] == [["toxic"], [], ["toxic", "insult"]]
    with pytest.raises(InputError, match="no column 'label'; it has comment, toxic, insult"):
        make(["toxic", "insult"]).read_file(path, {"text": "comment"})
    with pytest.raises(InputError, match="no column 'kind'"):
        task.read_file(path, {"text": "comment", "label": "kind"})
    path.write_text("text,toxic,insult\na,1,maybe\n")
    with pytest.raises(InputError, match="row 2: column 'insult': found 'maybe'"):
        task.read_file(path)


def write_classes(path: Path, names: list[str], *columns: str) -> Path:
    """A file of two rows, 0 and 1 in each column, with names for them."""
    import datasets

    features = {"text": datasets.Value("string"), **dict.fromkeys(columns, datasets.ClassLabel(names=names))}
    rows = {"text": ["a", "b"], **{column: [0, 1] for column in columns}}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["bad", "good"], ["good", "bad"]),
        (["bad", "fair", "good"], ["good", "bad"]),
        (["no", "yes"], ["no", "yes"]),
        (["0", "1"], ["0", "1"]),
        (["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"]),
    ],
)
def test_numbers_are_read_as_the_files_names_if_the_model_knows_one(
    tmp_path: Path, labels: list[str], expected: list[str]
) -> None:
    path = write_classes(tmp_path / "data.parquet", ["good", "bad"], "label")
    assert [example.gold for example in make(labels).read_file(path)] == expected


def test_names_may_differ_in_case_and_are_no_indices(tmp_path: Path) -> None:
    """roberta-large-mnli has the labels of MNLI in capitals and in another order."""
    path = write_classes(tmp_path / "data.parquet", ["good", "bad"], "label")
    assert [example.gold for example in make(["BAD", "GOOD"]).read_file(path)] == ["GOOD", "BAD"]
    assert make(["Good", "GOOD", "bad"]).check(Example("a", None, "GOOD"), "row 2").gold == "GOOD"
    with pytest.raises(InputError, match="row 2: unknown label 'good'; known are Good, GOOD, bad"):
        make(["Good", "GOOD", "bad"]).check(Example("a", None, "good"), "row 2")
    several = make(["Bad", "Good"], "multi_label_classification")
    assert several.check(Example("a", None, ["GOOD", "bad", "good"]), "row 2").gold == ["Bad", "Good"]


def test_numbers_that_a_file_names_are_quantities_or_a_column_of_a_label(tmp_path: Path) -> None:
    path = write_classes(tmp_path / "data.parquet", ["1 star", "score"], "label")
    assert [example.gold for example in make(["score"], "regression").read_file(path)] == [0, 1]
    path = write_classes(path, ["no", "yes"], "toxic", "insult")
    task = make(["toxic", "insult"], "multi_label_classification")
    assert [example.gold for example in task.read_file(path)] == [[], ["toxic", "insult"]]


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        (["-1", "10.5", "2"], ["-1", "2", "10.5"]),
        (["10", "2", "many"], ["10", "2", "many"]),
        (["no", "10"], ["10", "no"]),
    ],
)
def test_labels_are_found_in_order_numbers_by_value(names: list[str], ordered: list[str]) -> None:
    assert make().find_labels([Example("a", None, name) for name in names]) == ordered
    assert make(problem="multi_label_classification").find_labels([Example("a", None, names)]) == ordered


def test_labels_that_are_numbers_are_names_alone() -> None:
    stars = ["1", "2", "3"]
    one, several = make(stars), make(stars, "multi_label_classification")
    assert one.check(Example("a", None, "3"), "row 2").gold == "3"
    assert several.check(Example("a", None, ["1", "2"]), "row 2").gold == ["1", "2"]
    for task, gold in ((one, "0"), (several, ["0", "2"]), (make(["-1", "good"]), "0")):
        with pytest.raises(InputError, match=r"row 2: unknown label '0'; known are .*: spell it as one"):
            task.check(Example("a", None, gold), "row 2")


@pytest.mark.parametrize(
    ("problem", "golds"),
    [
        ("single_label_classification", ["good", "bad"]),
        ("multi_label_classification", [["bad", "good"], []]),
        ("regression", [0.5, -2.0]),
    ],
)
def test_a_split_reads_back_what_was_written(tmp_path: Path, problem: ProblemType, golds: list[Any]) -> None:
    task = make(problem=problem)
    examples = [Example("a", None, golds[0]), Example("", None, golds[1])]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(task.row(example)) + "\n" for example in examples))
    assert task.read_file(tmp_path / "s.jsonl") == examples


def test_decoding_is_a_softmax() -> None:
    logits = np.array([[1000.0, 1000.0 + np.log(3.0)]], np.float64).astype(np.float32)
    (found,) = answer(make(["no", "yes"]), logits)
    assert found["label"] == "yes"
    assert found["score"] == pytest.approx(0.75, abs=1e-4)
    assert found["scores"] == pytest.approx({"no": 0.25, "yes": 0.75}, abs=1e-4)


def test_a_long_text_has_the_mean_logits_of_its_windows() -> None:
    outputs = [np.array(row, np.float32) for row in ([0, 4], [5, 0], [0, 3])]
    long, short = make().decode([("", None)] * 2, windows([0, 0, 1]), outputs)
    assert long == answer(make(), np.array([[2.5, 2.0]], np.float32))[0]
    assert (long["label"], short["label"]) == ("bad", "good")


def test_labels_over_their_thresholds_are_given() -> None:
    logits = np.array([[0.0, 2.0, -1.0]], np.float32)
    task = make("abc", "multi_label_classification")
    assert answer(task, logits)[0]["labels"] == ["a", "b"]
    tuned = answer(make("abc", "multi_label_classification", thresholds=[0.6, 0.5, 0.2]), logits)[0]
    assert tuned["labels"] == ["b", "c"]
    assert tuned["scores"] == pytest.approx({"a": 0.5, "b": 0.8808, "c": 0.2689}, abs=1e-4)


def test_tuning_sets_a_threshold_for_each_label() -> None:
    task = make("ab", "multi_label_classification")
    logits = np.array([[-3, 2], [-2, 1], [-1, 3], [0, 0]], np.float32)
    examples = [Example("", None, gold) for gold in ([], ["b"], ["a", "b"], ["a"])]
    decision = task.tune(examples, windows(range(4)), list(logits), "macro_f1")
    tuned = task.with_decision(decision)
    assert isinstance(tuned, TextClassification)
    assert [one["labels"] for one in answer(tuned, logits)] == [["b"], ["b"], ["a", "b"], ["a"]]
    assert make().tune([], [], [], "accuracy") == Decision()


@pytest.mark.parametrize("metric", ["micro_f1", "loss", "accuracy"])
def test_a_label_that_nothing_tells_is_given_to_hardly_a_text(metric: str) -> None:
    """Its own F1 is best where nearly all have it, and leaves little of the micro-F1, where 0.5 of both is good."""
    chance, task = np.random.default_rng(0), make("ab", "multi_label_classification")
    true = chance.random((1000, 2)) < (0.5, 0.05)
    told, untold = np.where(true[:, 0], 3, -3) + 2 * chance.normal(size=1000), -3 + 0.1 * chance.normal(size=1000)
    examples = [Example("", None, [name for name, hot in zip("ab", row, strict=True) if hot]) for row in true]
    rows = list(np.stack([told, untold], axis=1).astype(np.float32))

    def score(decision: Decision) -> float:
        tuned = task.with_decision(decision)
        scores = tuned.score(examples, tuned.decode([("", None)] * 1000, windows(range(1000)), rows))
        return float(scores[metric if metric in scores else "micro_f1"])

    own, tuned = (score(task.tune(examples, windows(range(1000)), rows, each)) for each in ("macro_f1", metric))
    assert tuned >= score(Decision()) > own + 0.2


def test_two_labels_are_scored_on_the_second() -> None:
    # truth 1 1 1 0 0, told 1 0 1 1 0: 2 hits, 1 false alarm, 1 miss
    found = scores([1, 0, 1, 1, 0], [1, 1, 1, 0, 0], ["no", "yes"])
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["per_label"]["no"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2})


def test_more_labels_are_scored_as_the_mean_over_them() -> None:
    chance = np.random.default_rng(0)
    gold, told = chance.integers(0, 4, 200).tolist(), chance.integers(0, 3, 200).tolist()  # label 3 is never told
    names = ["a", "b", "c", "d"]
    found = scores(told, gold, names)
    report = classification_report(gold, told, target_names=names, output_dict=True, zero_division=0)
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, told))
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"), ("macro_f1", "f1-score")):
        assert found[name] == pytest.approx(report["macro avg"][key])
    assert found["weighted_f1"] == pytest.approx(report["weighted avg"]["f1-score"])
    assert found["per_label"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": gold.count(3)}
    json.dumps(found)


@pytest.mark.parametrize("labels", [2, 4])
def test_matthews_correlation_is_that_of_scikit_learn(labels: int) -> None:
    chance = np.random.default_rng(2)
    gold = chance.integers(0, labels, 200)
    told = np.where(chance.random(200) < 0.6, gold, chance.integers(0, labels, 200))
    names = list("abcd")[:labels]
    found = scores(told.tolist(), gold.tolist(), names)
    assert found["matthews_correlation"] == pytest.approx(matthews_corrcoef(gold, told))
    assert scores([0] * 200, gold.tolist(), names)["matthews_correlation"] == 0


def test_several_labels_are_scored_as_scikit_learn_does() -> None:
    chance = np.random.default_rng(1)
    gold, logits = chance.random((100, 3)) < 0.4, chance.normal(size=(100, 3)).astype(np.float32)
    task = make("abc", "multi_label_classification")
    examples = [Example("", None, [name for name, hot in zip("abc", row, strict=True) if hot]) for row in gold]
    found = task.score(examples, answer(task, logits))
    report = classification_report(gold, logits >= 0, target_names=list("abc"), output_dict=True, zero_division=0)
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, logits >= 0))
    assert found["micro_f1"] == pytest.approx(report["micro avg"]["f1-score"])
    assert found["macro_f1"] == found["f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["weighted_f1"] == pytest.approx(report["weighted avg"]["f1-score"])
    assert found["per_label"]["b"]["recall"] == pytest.approx(report["b"]["recall"])


def test_a_regression_is_scored_as_scipy_does() -> None:
    chance = np.random.default_rng(2)
    gold = 1e4 + chance.normal(size=80)  # far from 0: sums of squares must not lose their digits
    told = (gold + chance.normal(size=80)).astype(np.float32)
    task = make(["score"], "regression")
    found = task.score([Example("", None, one) for one in gold.tolist()], answer(task, told[:, None]))
    assert found["pearson"] == pytest.approx(pearsonr(gold, told).statistic, abs=1e-5)
    assert found["spearman"] == pytest.approx(spearmanr(gold, told).statistic, abs=1e-9)
    assert found["mse"] == pytest.approx(mean_squared_error(gold, told))
    assert task.agreement(answer(task, told[:, None]), answer(task, told[:, None])) == pytest.approx(1)


def test_a_constant_correlates_with_nothing() -> None:
    task = make(["score"], "regression")
    found = task.score([Example("", None, 1.0), Example("", None, 2.0)], answer(task, np.ones((2, 1), np.float32)))
    assert (found["pearson"], found["spearman"]) == (0, 0)


def test_what_shifts_or_scales_all_numbers_is_told_from_noise() -> None:
    chance = np.random.default_rng(4)
    task, said = make(["score"], "regression"), chance.normal(100, 5, size=(2000, 1)).astype(np.float32)
    noise = chance.normal(size=said.shape).astype(np.float32)
    others: list[Output] = [said, said + noise, said + 1, 0.8 * said + 20]
    found = [task.distortion(answer(task, said), answer(task, other)) for other in others]
    assert found == pytest.approx([0, 0, 0.04, 0.04], abs=2e-3)
    assert make().distortion([{"label": "a"}], [{"label": "b"}]) == 0
    constant = np.ones((3, 1), np.float32)
    assert task.distortion(answer(task, constant), answer(task, constant)) == 0


def test_agreement_is_in_labels_not_in_scores() -> None:
    one, other = (answer(make(), np.array([[0, first], [1, 0]], np.float32)) for first in (1, 2))
    assert make().agreement(one, other) == 1
    assert make().agreement(one, other[::-1]) == 0
