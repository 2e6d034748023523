"""How closely the examples of a split can tell a score: 95 % intervals by bootstrap over the examples.

Scores are functions of summed counts (see `Task.counts`), so a draw of examples is a weighting of their counts, and
examples with the same counts are drawn together.
"""

import numpy as np

from bertline.tasks.task import Counts, Task

RESAMPLES = 2000
SEED = 0


def interval(task: Task, metric: str, counts: Counts) -> tuple[float, float]:
    """Of a score.

    Args:
        task: gives the values.
        metric: one of them.
        counts: (examples, counts), of the answers.
    """
    return _bounds(_drawn(task, metric, counts, counts)[0])


def drop_interval(task: Task, metric: str, before: Counts, after: Counts) -> tuple[float, float]:
    """Of a drop (the score of `before` minus that of `after`), paired: both answered the same examples."""
    one, other = _drawn(task, metric, before, after)
    return _bounds(one - other)


def _drawn(task: Task, metric: str, before: Counts, after: Counts) -> tuple[Counts, Counts]:
    """The values of both in each resample."""
    groups, sizes = np.unique(np.hstack([before, after]), axis=0, return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(sizes.sum(), sizes / sizes.sum(), size=RESAMPLES)
    one, other = (task.values(draws @ part)[metric] for part in np.split(groups, 2, axis=1))
    return one, other


def _bounds(values: Counts) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
