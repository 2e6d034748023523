"""Intervals against plain resampling of examples, and against what is known by hand."""

from typing import Any

import numpy as np
import pytest

from bertline.artifacts.task import Input, TaskSettings, Tokens
from bertline.bench import bootstrap
from bertline.tasks import catalog
from bertline.tasks.task import Counts, Example
from tests.conftest import classifier

TASK = catalog.make(classifier(labels="abc"))


def answers(count: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and two predictions, right in most places."""
    chance = np.random.default_rng(3)
    gold, *wrong = chance.integers(3, size=(3, count))
    first, second = (
        np.where(chance.random(count) < share, gold, each) for share, each in zip((0.7, 0.6), wrong, strict=True)
    )
    return gold, first, second


def counts(gold: np.ndarray, told: np.ndarray) -> Counts:
    examples = [Example("", None, "abc"[index]) for index in gold]
    return TASK.counts(examples, [{"label": "abc"[index]} for index in told])


@pytest.mark.parametrize("metric", TASK.settings.scores)
def test_the_interval_is_that_of_resampled_examples(metric: str) -> None:
    gold, first, second = answers()
    before, after = counts(gold, first), counts(gold, second)
    drawn = np.random.default_rng(7).integers(len(gold), size=(4000, len(gold)))
    values = [[float(TASK.values(each[rows].sum(axis=0))[metric]) for each in (before, after)] for rows in drawn]
    ones, others = np.transpose(values)
    expected = np.percentile(ones - others, (2.5, 97.5))
    np.testing.assert_allclose(bootstrap.drop_interval(TASK, metric, before, after), expected, atol=0.015)
    np.testing.assert_allclose(bootstrap.interval(TASK, metric, before), np.percentile(ones, (2.5, 97.5)), atol=0.015)


def test_answers_alike_leave_no_doubt() -> None:
    gold, first, _ = answers()
    same = counts(gold, first)
    assert bootstrap.drop_interval(TASK, "accuracy", same, same) == (0.0, 0.0)


def test_a_single_difference_by_hand() -> None:
    """Of 100 texts the candidate loses one: the times it is drawn are binomial(100, 1/100), 0 to 3 for 95 %."""
    gold = np.zeros(100, np.int64)
    candidate = np.where(np.arange(100) == 0, 1, 0)
    drop = bootstrap.drop_interval(TASK, "accuracy", counts(gold, gold), counts(gold, candidate))
    assert drop == pytest.approx((0.0, 0.03))


def test_the_same_answers_give_the_same_interval() -> None:
    gold, first, second = answers()
    both = counts(gold, first), counts(gold, second)
    assert bootstrap.drop_interval(TASK, "f1", *both) == bootstrap.drop_interval(TASK, "f1", *both)


@pytest.mark.parametrize(
    ("metric", "expected"), [("accuracy", 3 / 1000), ("f1", 1 - 4 / 7), ("macro_f1", (1 - 4 / 7 + 3 / 1993) / 2)]
)
def test_few_examples_of_a_label_tell_little_of_it(metric: str, expected: float) -> None:
    """Of five, three may be answered wrongly by a model that answers these five rightly."""
    task = catalog.make(classifier(labels="ab"))
    examples = [Example("", None, "b" if index < 5 else "a") for index in range(1000)]
    right = task.counts(examples, [{"label": example.gold} for example in examples])
    assert bootstrap.unseen(task, metric, examples, right) == pytest.approx(expected)
    half = [Example("", None, "ab"[index % 2]) for index in range(1000)]
    right = task.counts(half, [{"label": example.gold} for example in half])
    assert bootstrap.unseen(task, metric, half, right) == pytest.approx(3 / 1000, abs=1e-4)


@pytest.mark.parametrize("gold", [[], [{"text": "Paris", "answer_start": 0}]])
def test_a_wrong_answer_is_wrong(gold: list[dict[str, Any]]) -> None:
    inputs: list[Input] = ["question", "context"]
    settings = TaskSettings(
        task="question-answering", problem_type=None, inputs=inputs, labels=[], tokens=Tokens(max_length=32)
    )
    task = catalog.make(settings)
    example = Example("where?", "Paris", gold)
    assert task.score([example], [task.wrong(example)])["f1"] == 0
