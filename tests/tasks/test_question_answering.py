"""Answers as spans: reading, targets, the best span over windows, thresholds, and SQuAD's scores by hand."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchmetrics.functional.text
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision, TaskSettings, Tokens
from bertline.tasks.question_answering import QuestionAnswering, exact, f1, normalize
from bertline.tasks.task import Answer, Columns, Example, Output
from bertline.tasks.tokens import Encoded, Text
from tests import encoders

CONTEXT = "Anna Müller works for  Siemens in München; O'Brien doesn't 👩‍👩‍👧 near Berlin."


def make(max_length: int = 64, stride: int = 8, **decision: Any) -> QuestionAnswering:
    return QuestionAnswering(
        TaskSettings(
            task="question-answering", inputs=["question", "context"], labels=[],
            tokens=Tokens(max_length=max_length, stride=stride, long="windows"), decision=Decision(**decision),
        )
    )  # fmt: skip


@pytest.fixture(params=["wordpiece", "bpe", "unigram", "unigram-albert"], scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    encoders.make_tokenizer(request.param).save_pretrained(folder)
    return folder


def gold(answer: str, context: str = CONTEXT) -> Example:
    return Example("who?", context, [{"text": answer, "start": context.index(answer)}])


def told(task: QuestionAnswering, example: Example, windows: list[Encoded]) -> list[Output]:
    """The outputs of a model that has learned the targets."""
    outputs = []
    for window in windows:
        output = np.full((len(window.input_ids), 2), -9.0, np.float32)
        start, end = task.target(example, window)
        output[start, 0], output[end, 1] = (9, 9) if end else (5, 5)
        outputs.append(output)
    return outputs


ROW = {"question": "who?", "context": "Anna sings"}


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["sings"], "answer_start": [5]},
        [{"text": "sings", "answer_start": 5}],
        [{"text": "sings", "start": 5}],
    ],
)
def test_every_layout_of_answers_is_read(answers: Any) -> None:
    example = make().read({**ROW, "answers": answers}, Columns(), "row 2")
    assert example == Example("who?", "Anna sings", [{"text": "sings", "start": 5}])
    assert make().read(make().row(example), Columns(), "row 2") == example


@pytest.mark.parametrize(
    "row", [{"answers": []}, {"answers": {"text": [], "answer_start": []}}, {"answers": [], "is_impossible": True},
            {"answers": [{"text": "Anna", "answer_start": 0}], "is_impossible": True}],
)  # fmt: skip
def test_a_question_may_have_no_answer(row: dict[str, Any]) -> None:
    example = make().read({**ROW, **row}, Columns(), "row 2")
    assert example.gold == []
    assert make().stratum(example) == "unanswerable"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "row 2: answers are nothing; a list of objects"),
        ({"answers": "sings"}, "row 2: answers are 'sings'"),
        ({"answers": {"text": ["a"], "answer_start": []}}, "row 2: answers are"),
        (
            {"answers": [{"text": "sings", "start": 4}]},
            "starts at 4, but the context has ' sing' there; it occurs at 5",
        ),
        ({"answers": [{"text": "dances", "start": 5}]}, "has 'sings' there; it does not occur"),
        ({"answers": [{"text": " ", "start": 4}]}, "answer ' ' is no text"),
        ({"answers": [{"text": "Anna", "start": "0"}]}, "starts at '0'; a character"),
        ({"answers": [], "question": None}, "column 'question' holds nothing"),
        ({"answers": [], "context": 5}, "column 'context' holds a int"),
    ],
)
def test_a_bad_row_is_told_with_its_place(row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make().read({**ROW, **row}, Columns(), "row 2")


@pytest.mark.parametrize("max_length", [64, 20])
@pytest.mark.parametrize("answer", ["Anna Müller", "Siemens", "München", "O'Brien", "Berlin", "works for  Siemens"])
def test_what_was_learned_is_answered(folder: Path, answer: str, max_length: int) -> None:
    task, example = make(max_length), gold(answer)
    windows = task.tokenizer(folder).encode([example.texts])
    assert max_length == 64 or len(windows) > 1
    assert all(len(window.input_ids) <= max_length for window in windows)
    if not any(task.target(example, window).any() for window in windows):
        assert max_length == 20  # no window shows all of it
        return
    (found,) = task.decode([example.texts], windows, told(task, example, windows))
    assert (found["answer"], found["start"]) == (answer, example.gold[0]["start"])
    assert found["end"] == found["start"] + len(answer)
    assert found["score"] > 0.99


def test_an_answer_that_a_window_cuts_is_not_learned_there(folder: Path) -> None:
    task, example = make(20, stride=0), gold("Anna Müller works for  Siemens in München; O'Brien doesn't")
    windows = task.tokenizer(folder).encode([example.texts])
    assert len(windows) > 1
    for window in windows:
        assert task.target(example, window).tolist() == [0, 0]


@pytest.mark.parametrize("words", [1, 10, 17, 20, 24, 100])
@pytest.mark.parametrize(("max_length", "stride"), [(16, 8), (28, 8), (64, 32), (64, 0)])
def test_a_long_question_leaves_room_and_is_told(folder: Path, max_length: int, stride: int, words: int) -> None:
    task = make(max_length, stride)
    question, context = "fox " * words, " ".join(f"dog{index}" for index in range(40))
    windows = task.tokenizer(folder).encode([(question, context)])
    shown = set().union(*(range(*place) for one in windows for place in one.offsets[one.sequence == 1]))
    assert {place for place, character in enumerate(context) if character != " "} <= shown
    assert all(len(one.input_ids) <= max_length for one in windows)
    assert len({one.truncated for one in windows}) == 1
    assert windows[0].truncated or words < max_length
    assert not (windows[0].truncated and words == 1 and max_length > 16)


def window(tokens: int, text: int = 0, first: int = 0) -> Encoded:
    """[CLS], a question of one token, and a context of tokens of one character with blanks between."""
    offsets = [(0, 0), (0, 1), *((2 * i, 2 * i + 1) for i in range(first, first + tokens))]
    count = len(offsets)
    return Encoded(
        np.zeros(count, np.int64), np.zeros(count, np.int64), np.array(offsets), np.array([-1, 0, *[1] * tokens]), text,
        False,
    )  # fmt: skip


def test_the_target_is_the_first_and_the_last_token_of_an_answer_that_is_shown_whole() -> None:
    example = Example("q", "a b c d", [{"text": "b c", "start": 2}])
    assert make().target(example, window(4)).tolist() == [3, 4]
    assert make().target(example, window(2, first=2)).tolist() == [0, 0]  # b is not shown
    assert make().target(example, window(2, first=1)).tolist() == [2, 3]


def best_by_force(windows: list[Encoded], outputs: list[Output], longest: int) -> tuple[float, int, int]:
    """Every pair of every window, one by one."""
    return max(
        (float(output[start, 0] + output[end, 1]), int(one.offsets[start, 0]), int(one.offsets[end, 1]))
        for one, output in zip(windows, outputs, strict=True)
        for start, end in itertools.product(range(2, len(output)), repeat=2)
        if start <= end < start + longest
    )


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_the_best_of_all_pairs(longest: int) -> None:
    chance = np.random.default_rng(longest)
    context = " ".join("abcdefghijkl")
    for _ in range(30):
        windows = [window(7), window(7, first=5)]
        outputs = [chance.normal(size=(9, 2)).astype(np.float32) for _ in windows]
        (found,) = make(max_answer_length=longest).decode([("q", context)], windows, outputs)
        logit, start, end = best_by_force(windows, outputs, longest)
        assert (found["start"], found["end"]) == (start, end), logit
        scores = [one["score"] for one in found["n_best"]]
        assert scores == sorted(scores, reverse=True)
        assert len({(one["start"], one["end"]) for one in found["n_best"]}) == len(scores) == 5


def test_no_answer_is_given_when_it_scores_enough_better() -> None:
    output = np.array([[3, 3], [9, 9], [2, 2], [0, 0]], np.float32)  # none: 6; the best span: 4; the question's: never
    texts: list[Text] = [("q", "a b")]
    (always,) = make().decode(texts, [window(2)], [output])
    assert (always["answer"], "no_answer_score" in always) == ("a", False)
    (silent,) = make(no_answer_threshold=1.9).decode(texts, [window(2)], [output])
    assert (silent["answer"], silent["start"], silent["end"], silent["no_answer_score"]) == ("", 0, 0, 2.0)
    (spoken,) = make(no_answer_threshold=2.1).decode(texts, [window(2)], [output])
    assert spoken["answer"] == "a"
    assert spoken["score"] < 0.2 < silent["score"]
    (empty,) = make(no_answer_threshold=1.9).decode([("q", "  ")], [window(0)], [output[:3]])
    assert (empty["answer"], empty["no_answer_score"]) == ("", None)
    json.dumps(empty, allow_nan=False)


def test_an_empty_context_answers_nothing() -> None:
    (found,) = make().decode([("q", "")], [window(0)], [np.zeros((2, 2), np.float32)])
    assert (found["answer"], found["n_best"]) == ("", [])


def test_answers_may_be_as_long_as_most_correct_ones() -> None:
    task, context = make(), " ".join("x" * 50)
    example, windows = Example("q", context, [{"text": context[:79], "start": 0}]), [window(50)]
    outputs = told(task, example, windows)
    (cut,) = task.decode([example.texts], windows, outputs)
    assert len(cut["answer"]) < 79
    tuned = task.tune([example], windows, outputs, "f1")
    assert tuned.max_answer_length == 40
    (found,) = task.with_decision(tuned).decode([example.texts], windows, outputs)
    assert found["answer"] == context[:79]
    short = Example("q", context, [{"text": "x x", "start": 0}])
    many, all_windows = [example, *[short] * 199], [window(50, text) for text in range(200)]
    assert task.tune(many, all_windows, [outputs[0]] * 200, "f1").max_answer_length == 30


def test_tuning_needs_questions_without_an_answer() -> None:
    task, windows = make(), [window(2, 0), window(2, 1)]
    sure, unsure = np.array([[0, 0], [0, 0], [5, 5], [0, 0]]), np.array([[4, 4], [0, 0], [1, 1], [0, 0]])
    outputs = [each.astype(np.float32) for each in (sure, unsure)]
    examples = [Example("q", "a b", [{"text": "b", "start": 2}]), Example("q", "a b", [])]
    assert task.tune(examples[:1], windows[:1], outputs[:1], "f1") == Decision()
    threshold = task.tune(examples, windows, outputs, "f1").no_answer_threshold
    assert threshold is not None
    assert -10 < threshold < 6


@pytest.mark.parametrize(("metric", "answer"), [("f1", "x"), ("loss", "x"), ("exact_match", "")])
def test_tuning_is_by_the_metric_that_is_asked_for(metric: str, answer: str) -> None:
    """Half of an answer is worth more F1 than silence, and no exact match: silence is right once of four times."""
    task, windows = make(), [window(2, text) for text in range(4)]
    outputs = [np.array([[0, 0], [0, 0], [sure, sure], [0, 0]], np.float32) for sure in (6, 5, 5, 5)]
    examples = [Example("q", "x y", []), *[Example("q", "x y", [{"text": "x y", "start": 0}])] * 3]
    tuned = task.with_decision(task.tune(examples, windows, outputs, metric))
    found = tuned.decode([example.texts for example in examples], windows, outputs)
    assert [one["answer"] for one in found] == [answer] * 4


@pytest.mark.parametrize(
    ("answer", "wanted", "matches", "overlap"),
    [
        ("the Eiffel Tower", "Eiffel Tower.", True, 1.0),
        ("An apple, a day", "apple day", True, 1.0),
        ("Theatre", "the atre", False, 0.0),
        ("in Paris", "Paris", False, 2 / 3),
        ("Paris Paris", "Paris", False, 2 / 3),
        ("a b c", "b c d", False, 0.8),  # the article goes: b c against b c d
        ("MÜNCHEN", "München", True, 1.0),
        ("", "", True, 1.0),
        ("", "Paris", False, 0.0),
        ("the", "", True, 1.0),  # nothing is left of an article
        ("Paris", "", False, 0.0),
        ("10,000", "10000", True, 1.0),
        ("well-known", "well known", False, 0.0),  # punctuation goes, and no blank comes
    ],
)
def test_scores_by_hand(answer: str, wanted: str, matches: bool, overlap: float) -> None:
    assert exact(answer, wanted) == matches
    assert f1(answer, wanted) == pytest.approx(overlap)


PIECES = st.sampled_from(["the", "a", "An", "cat", "Cat", "dog", "Ångström", "1.5", "U.S.", "o'clock", "-", ",", "  "])
GOLDS = st.lists(st.lists(PIECES, min_size=1, max_size=5).map(" ".join).filter(normalize), min_size=1, max_size=3)
PAIRS = st.lists(st.tuples(st.lists(PIECES, max_size=5).map(" ".join), GOLDS), min_size=1, max_size=5)


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_scores_are_those_of_torchmetrics(pairs: list[tuple[str, list[str]]]) -> None:
    predictions = [{"id": str(number), "prediction_text": answer} for number, (answer, _) in enumerate(pairs)]
    targets = [
        {"id": str(number), "answers": {"text": golds, "answer_start": [0] * len(golds)}}
        for number, (_, golds) in enumerate(pairs)
    ]
    oracle = torchmetrics.functional.text.squad(predictions, targets)
    examples = [Example("?", "", [{"text": gold, "start": 0} for gold in golds]) for _, golds in pairs]
    found = make().score(examples, [{"answer": answer} for answer, _ in pairs])
    assert 100 * found["exact_match"] == pytest.approx(float(oracle["exact_match"]), abs=1e-4)
    assert 100 * found["f1"] == pytest.approx(float(oracle["f1"]), abs=1e-4)


def test_the_best_of_several_gold_answers_counts() -> None:
    golds = [{"text": text, "start": 0} for text in ("in the city of Paris", "Paris", "France")]
    examples = [Example("q", "", golds), Example("q", "", golds), Example("q", "", []), Example("q", "", [])]
    answers: list[Answer] = [{"answer": each} for each in ("paris!", "city of Paris", "", "Rome")]
    scores = make().score(examples, answers)
    assert scores == pytest.approx(
        {
            "exact_match": 2 / 4,
            "f1": (1 + 6 / 7 + 1 + 0) / 4,
            "has_answer_exact_match": 1 / 2,
            "has_answer_f1": (1 + 6 / 7) / 2,
            "no_answer_accuracy": 1 / 2,
        }
    )


def test_f1_of_distinct_words_is_that_of_sets() -> None:
    """Bags of words without repeats are labels of a multi-label problem, which scikit-learn scores."""
    chance = np.random.default_rng(0)
    names = np.array([f"w{index}" for index in range(8)])
    for _ in range(100):
        found, wanted = chance.random((2, 8)) < 0.5
        if found.any() and wanted.any():
            expected = f1_score(wanted, found)
            assert f1(" ".join(names[found]), " ".join(names[wanted])) == pytest.approx(expected)
