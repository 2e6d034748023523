"""Correlations of answers with gold answers, from counts that may be summed over any subset of the examples."""

from collections.abc import Sequence

import numpy as np

from bertline.tasks.task import Counts


def matthews(right: Counts, true: Counts, found: Counts) -> Counts:
    """Matthews' correlation from summed counts (…, labels) of one label per text; 0 if one side does not vary.

    For more than two labels it is R_K (Gorodkin, 2004).
    """
    count = true.sum(axis=-1)
    product = right.sum(axis=-1) * count - (true * found).sum(axis=-1)
    vary = (np.maximum(count**2 - (side**2).sum(axis=-1), 0) for side in (true, found))
    spread = np.sqrt(np.prod(list(vary), axis=0))
    least = 1e-9 * np.maximum(count, 1) ** 2  # rounding makes fractional weights seem to vary
    return np.asarray(np.where(spread > least, product / np.maximum(spread, least), 0.0))


def moments(gold: Sequence[float], found: Sequence[float]) -> Counts:
    """For each text: 1, x, y, xx, yy, xy of the values and of their ranks, and the squared error.

    Values are relative to a common origin, so that sums keep their precision. Ranks are those in the whole split.
    """
    from scipy.stats import rankdata  # installed with scikit-learn for measuring, not for serving

    x, y = np.asarray(gold, np.float64), np.asarray(found, np.float64)
    columns = [*_powers(x - x.mean(), y - x.mean()), *_powers(*(rankdata(each) - (len(x) + 1) / 2 for each in (x, y)))]
    return np.stack([*columns, (x - y) ** 2], axis=1)


def _powers(x: Counts, y: Counts) -> list[Counts]:
    return [np.ones_like(x), x, y, x * x, y * y, x * y]


def correlations(sums: Counts) -> dict[str, Counts]:
    """pearson, spearman and mse from summed `moments` (…, 13)."""
    return {
        "pearson": _correlation(sums[..., :6]),
        "spearman": _correlation(sums[..., 6:12]),
        "mse": sums[..., 12] / sums[..., 0],
    }


def _correlation(sums: Counts) -> Counts:
    """Pearson's correlation from summed powers; 0 if one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.asarray(np.where(spread > 1e-12, (n * xy - x * y) / np.maximum(spread, 1e-12), 0.0))
