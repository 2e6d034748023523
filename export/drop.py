"""How much of a metric a candidate loses, and how closely the validation texts can tell."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Indices = Sequence[int] | Counts
Values = npt.NDArray[np.float64]

RESAMPLES = 2000
SEED = 0


def interval(metric: str, gold: Indices, baseline: Indices, candidate: Indices, labels: int) -> tuple[float, float]:
    """95 % interval of the drop (baseline's value minus the candidate's) by paired bootstrap over the examples.

    Examples that agree in truth and both predictions are alike, so the counts of those groups are drawn, which is the
    same as drawing examples and costs the same for any number of them.

    Args:
        metric: one of those that `values` knows.
        gold, baseline, candidate: for each example the index of the true and of the predicted labels.
        labels: how many there are.
    """
    groups, counts = np.unique(np.stack([gold, baseline, candidate]), axis=1, return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    drops = values(metric, groups[0], groups[1], draws, labels) - values(metric, groups[0], groups[2], draws, labels)
    low, high = np.percentile(drops, (2.5, 97.5))
    return float(low), float(high)


def values(metric: str, gold: Counts, predicted: Counts, weights: Counts, labels: int) -> Values:
    """A metric of weighted examples, as `text_classification.score` defines it, for many weightings at once.

    Args:
        metric: accuracy, precision, recall, f1 or macro_f1.
        gold, predicted: label indices (examples).
        weights: how often each example counts (weightings, examples).
        labels: how many there are.

    Returns:
        One value for each weighting.
    """
    is_true, is_found = (np.arange(labels) == each[:, None] for each in (gold, predicted))
    right, true, found = (weights @ each.astype(np.int64) for each in (is_true & is_found, is_true, is_found))
    if metric == "accuracy":
        return np.asarray(right.sum(axis=1) / weights.sum(axis=1))
    part, whole = {
        "precision": (right, found),
        "recall": (right, true),
        "f1": (2 * right, true + found),
        "macro_f1": (2 * right, true + found),
    }[metric]
    per_label = part / np.maximum(whole, 1)  # 0 of 0 is 0, as in `score`
    return np.asarray(per_label[:, 1] if labels == 2 and metric != "macro_f1" else per_label.mean(axis=1))
