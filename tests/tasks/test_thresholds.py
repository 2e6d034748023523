"""Thresholds against all others there are."""

import numpy as np
import pytest

from bertline.tasks.thresholds import SWEEPS, best_no_answer_threshold, best_threshold, best_together


def f1(true: np.ndarray, given: np.ndarray) -> float:
    """Over all labels together, 0 without any: as scikit-learn's with average="micro", which takes milliseconds."""
    return float(2 * (true & given).sum() / max(true.sum() + given.sum(), 1))


def test_a_threshold_is_the_best_of_all() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        true = chance.random(40) < 0.3
        probable = np.round(0.3 * true + 0.7 * chance.random(40), 2).astype(np.float32)  # some are equal
        every = [f1(true, probable >= cut) for cut in [*probable, 0.0, 1.1]]
        assert f1(true, probable >= best_threshold(probable, true)) == pytest.approx(max(every))


def test_the_threshold_of_no_answer_is_the_best_of_all() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        scores = np.round(chance.normal(size=30), 1)  # some are equal
        given, silent = chance.random(30), (chance.random(30) < 0.4).astype(float)

        def worth(threshold: float) -> float:
            return float(np.where(scores > threshold, silent, given).sum())  # noqa: B023

        assert worth(best_no_answer_threshold(scores, given, silent)) == pytest.approx(
            max(map(worth, [-99, *scores, 99]))
        )


def together(exactly: bool, true: np.ndarray, given: np.ndarray) -> float:
    """What thresholds of all labels are set by."""
    if exactly:
        return float((true == given).all(axis=1).mean())
    return f1(true, given)


@pytest.mark.parametrize("exactly", [False, True])
def test_thresholds_together_are_no_worse_than_untuned_ones(exactly: bool) -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        true = chance.random((40, 3)) < (0.1, 0.3, 0.6)
        probable = np.round(0.2 * true + 0.8 * chance.random((40, 3)), 2).astype(np.float32)  # some are equal
        found = together(exactly, true, probable >= best_together(probable, true, exactly))
        assert found >= together(exactly, true, probable >= 0.5)
        one, own = true[:, :1], probable[:, :1]
        every = [together(exactly, one, own >= cut) for cut in [*own[:, 0], 0.0, 1.1]]
        assert together(exactly, one, own >= best_together(own, one, exactly)) == pytest.approx(max(every))


@pytest.mark.parametrize("exactly", [False, True])
def test_each_threshold_in_its_turn_is_the_best_as_the_others_are(exactly: bool) -> None:
    chance = np.random.default_rng(1)
    for _ in range(20):
        true = chance.random((20, 4)) < (0.1, 0.3, 0.5, 0.8)
        probable = np.round(0.3 * true + 0.7 * chance.random((20, 4)), 2).astype(np.float32)  # some are equal
        given = probable >= 0.5
        for label in [*range(4)] * SWEEPS:
            cuts = []
            for cut in (1.1, *sorted({*probable[:, label]}, reverse=True)):
                other = given.copy()
                other[:, label] = probable[:, label] >= cut
                cuts.append(other)
            best = max(cuts, key=lambda each: together(exactly, true, each))
            if together(exactly, true, best) > together(exactly, true, given):
                given = best
        assert ((probable >= best_together(probable, true, exactly)) == given).all()
