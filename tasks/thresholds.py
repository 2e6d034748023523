"""Tune thresholds on a validation split: of the labels in multi-label classification, and of "no answer"."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bertline.tasks.task import Counts, Output, share
from bertline.tasks.tokens import Ids

UNTUNED = 0.5
"""Threshold of a label in multi-label classification if none was tuned."""
SWEEPS = 3
"""Maximum number of passes over all labels when their thresholds are tuned together."""


def best_threshold(probable: Output, true: npt.NDArray[np.bool_]) -> float:
    """The threshold of a label with the best F1; UNTUNED if no text has the label.

    Args:
        probable: (texts,) probabilities of the label.
        true: (texts,) whether the text has it.
    """
    if not true.any():
        return UNTUNED
    order = np.argsort(-probable, kind="stable")
    given = np.arange(len(order) + 1)
    _, threshold = _best_cut(probable[order], share(2 * _sum_first(true[order]), given + true.sum()))
    return threshold


def best_together(probable: Output, true: npt.NDArray[np.bool_], exactly: bool) -> list[float]:
    """The thresholds of all labels that together give the best micro-F1 or share of exact matches.

    Coordinate ascent from UNTUNED: each threshold in turn is set to the best one given the others, if that is better. A
    label that the model cannot predict is then given to hardly any text, although its own F1 is best if nearly all
    texts get it (arXiv 1402.1892).

    Args:
        probable: (texts, labels) probabilities.
        true: (texts, labels) whether each text has each label.
        exactly: whether to maximize exact matches, not micro-F1.
    """
    thresholds, given = [UNTUNED] * true.shape[1], probable >= UNTUNED
    order = np.argsort(-probable, axis=0, kind="stable")
    wrong, named = (given != true).sum(axis=1), int(given.sum() + true.sum())  # updated, since recounting takes minutes
    for _ in range(SWEEPS):
        before = list(thresholds)
        for label, ranks in enumerate(order.T):
            own, mine = given[:, label], true[:, label]
            count, others = int(own.sum()), wrong - (own != mine)
            worth = _worth(mine[ranks], others[ranks], named - count, exactly)
            best, threshold = _best_cut(probable[ranks, label], worth)
            if worth[best] > worth[count]:
                thresholds[label] = threshold
                own[ranks] = np.arange(len(ranks)) < best  # a view of `given`
                wrong, named = others + (own != mine), named - count + best
        if thresholds == before:
            break
    return thresholds


def best_no_answer_threshold(scores: Counts, given: Counts, silent: Counts) -> float:
    """The "no answer" threshold with the highest total score; among equals, the one nearest to 0.

    Args:
        scores: (questions,) margin by which no answer scores better than the best span.
        given: (questions,) score of answering with the span.
        silent: (questions,) score of not answering.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    # the total if only the first n questions are answered, for every n where neighboring scores differ
    worth = _sum_first(given[order]) + silent.sum() - _sum_first(silent[order])
    apart = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    finite = np.where(np.isfinite(ranked), ranked, ranked[np.isfinite(ranked)].max(initial=0.0) + 1)
    cuts = np.concatenate([[finite[0] - 1], (finite[1:] + finite[:-1]) / 2, [finite[-1] + 1]])
    best = np.flatnonzero(apart & (worth >= worth[apart].max() - 1e-9))
    return float(cuts[min(best, key=lambda index: abs(cuts[index]))])


def _worth(true: npt.NDArray[np.bool_], wrong: Ids, named: int, exactly: bool) -> Counts:
    """(texts + 1,) scores of giving a label to the first 0, 1, … of its ranked texts, other labels unchanged.

    Args:
        true: (texts,) whether the text has the label.
        wrong: (texts,) number of errors in other labels, false positives and false negatives.
        named: number of gold labels, plus predictions of other labels, over all texts.
        exactly: see `best_together`.
    """
    change = np.where(true, -1, 1)  # in the number of errors, where the label is given
    if exactly:
        alone = wrong == 0
        return share((alone & ~true).sum() - _sum_first(change * alone), np.array(len(true)))
    total = named + np.arange(len(true) + 1)
    return share(total - (wrong.sum() + true.sum() + _sum_first(change)), total)


def _sum_first(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n + 1,) sums of the first 0, 1, …, n values."""
    return np.concatenate([[0], np.cumsum(values)])


def _best_cut(ranked: Output, worth: Counts) -> tuple[int, float]:
    """The best number of texts to give a label to, and the threshold that does so.

    Args:
        ranked: (texts,) probabilities, the largest first.
        worth: (texts + 1,) scores of giving the label to the first 0, 1, … texts.
    """
    edges = np.concatenate([[1.0], ranked.astype(np.float64), [0.0]])
    apart = np.append(edges[:-2] > edges[1:-1], True)  # equal probabilities cannot be told apart
    best = int(np.argmax(np.where(apart, worth, -1)))
    return best, float(edges[best] + edges[best + 1]) / 2
