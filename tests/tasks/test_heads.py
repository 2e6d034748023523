"""What a head shows, and which names are only names."""

from typing import Any

import pytest

from bertline.artifacts.task import TaskName, TaskSettings, Tokens
from bertline.tasks import heads


def settings(*labels: str, **keys: Any) -> TaskSettings:
    own: dict[str, Any] = {
        "task": "text-classification", "problem_type": "single_label_classification", "inputs": ["text"],
        "tokens": Tokens(max_length=64, stride=32, long="windows"),
    }  # fmt: skip
    return TaskSettings(**{**own, **keys}, labels=list(labels))


def config(*labels: str, **keys: Any) -> dict[str, Any]:
    return {"model_type": "bert", "id2label": {str(index): label for index, label in enumerate(labels)}, **keys}


@pytest.mark.parametrize(
    ("architectures", "task"),
    [
        (["BertForSequenceClassification"], "text-classification"),
        (["RobertaForTokenClassification"], "token-classification"),
        (["BertForQuestionAnswering"], "question-answering"),
        (["BertModel"], None),
        (None, None),
    ],
)
def test_the_architecture_shows_the_task(architectures: list[str] | None, task: TaskName | None) -> None:
    assert heads.task({"architectures": architectures}) == task


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (["b", "a"], ["b", "a"]),
        (["LABEL_0", "LABEL_1"], ["a", "b"]),
        ([], ["a", "b"]),  # transformers then takes two
        (["LABEL_1", "LABEL_0"], ["LABEL_1", "LABEL_0"]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (["c"], ["c"]),
    ],
)
def test_outputs_without_names_get_those_asked_for(own: list[str], found: list[str]) -> None:
    assert heads.settings(config(*own), settings("a", "b")) == settings(*found)


def test_the_label_of_a_regression_is_only_a_name() -> None:
    asked = settings("score", problem_type="regression")
    assert heads.settings(config("stars"), asked) == asked
    assert heads.settings(config("a", "b"), asked).labels == ["a", "b"]
    assert heads.named_as(asked, settings("stars")).labels == ["stars"], "a class, not a number"


def test_the_two_outputs_of_question_answering_are_no_labels() -> None:
    asked = settings(task="question-answering", problem_type=None, inputs=["question", "context"])
    assert heads.settings(config("a", "b"), asked) == asked


@pytest.mark.parametrize(("positions", "length", "stride"), [(512, 64, 32), (64, 64, 32), (63, 63, 15), (16, 16, 4)])
def test_a_model_reads_as_much_as_it_has_positions_for(positions: int, length: int, stride: int) -> None:
    found = heads.settings(config("a", "b", max_position_embeddings=positions), settings("a", "b"))
    assert found.tokens == Tokens(max_length=length, stride=stride, long="windows")
