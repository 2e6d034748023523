"""The bootstrap and its metrics, against scikit-learn and plain resampling."""

import numpy as np
import pytest

from bertline.export import drop
from bertline.export.sources import METRICS
from bertline.tasks import text_classification


def answers(labels: int, count: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and two predictions, right in most places."""
    chance = np.random.default_rng(labels)
    gold, *wrong = chance.integers(labels, size=(3, count))
    first, second = (
        np.where(chance.random(count) < share, gold, each) for share, each in zip((0.7, 0.6), wrong, strict=True)
    )
    return gold, first, second


def score(metric: str, gold: np.ndarray, predicted: np.ndarray, labels: int) -> float:
    """By the task's own scoring."""
    names = [f"label {index}" for index in range(labels)]
    return float(text_classification.score(np.eye(labels, dtype=np.float32)[predicted], gold.tolist(), names)[metric])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("labels", [2, 4])
def test_values_are_those_of_the_task(metric: str, labels: int) -> None:
    gold, predicted, _ = answers(labels)
    weights = np.random.default_rng(5).multinomial(len(gold), np.full(len(gold), 1 / len(gold)), size=3)
    found = drop.values(metric, gold, predicted, weights, labels)
    repeated = [score(metric, np.repeat(gold, row), np.repeat(predicted, row), labels) for row in weights]
    np.testing.assert_allclose(found, repeated, atol=1e-12)


def test_the_interval_is_that_of_resampled_examples() -> None:
    gold, first, second = answers(3)
    lost = (first == gold).astype(np.float64) - (second == gold)
    drawn = np.random.default_rng(7).integers(len(gold), size=(5000, len(gold)))
    expected = np.percentile(lost[drawn].mean(axis=1), (2.5, 97.5))
    np.testing.assert_allclose(drop.interval("accuracy", gold, first, second, 3), expected, atol=0.01)


def test_answers_alike_leave_no_doubt() -> None:
    gold, first, _ = answers(2)
    assert drop.interval("accuracy", gold, first, first, 2) == (0.0, 0.0)


def test_a_single_difference_by_hand() -> None:
    """Of 100 texts the candidate loses one: the times it is drawn are binomial(100, 1/100), 0 to 3 for 95 %."""
    gold = np.zeros(100, np.int64)
    candidate = np.where(np.arange(100) == 0, 1, 0)
    assert drop.interval("accuracy", gold, gold, candidate, 2) == pytest.approx((0.0, 0.03))


def test_the_same_answers_give_the_same_interval() -> None:
    gold, first, second = answers(2)
    assert drop.interval("f1", gold, first, second, 2) == drop.interval("f1", gold, first, second, 2)
