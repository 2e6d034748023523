"""How closely the examples of a split can tell a score: 95 % intervals by bootstrap over the examples.

Scores are functions of summed counts (see `Task.counts`), so a draw of examples is a weighting of their counts, and
examples with the same counts are drawn together.
"""

from collections.abc import Sequence

import numpy as np

from bertline.tasks.task import Counts, Example, Task

RULE_OF_THREE = 3
"""Nothing seen in n examples may still happen in 3/n of all, with 95 % confidence (Hanley and Lippman-Hand, 1983)."""
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


def unseen(task: Task, metric: str, examples: Sequence[Example], before: Counts) -> float:
    """A drop that examples cannot tell from none, though not one of their answers has changed.

    By the rule of three, what none of them shows may still happen in three of as many others: of all, and of those with
    one label alone, of which three may be many.

    Args:
        task: of the examples.
        metric: one of its scores.
        examples: labelled.
        before: (examples, counts), of the answers that are held to.
    """
    named = [task.stratum(example) for example in examples]
    if None in named:
        return RULE_OF_THREE / len(examples)
    change = task.counts(examples, [task.wrong(example) for example in examples]) - before
    whole, value = before.sum(axis=0), task.values(before.sum(axis=0))[metric]
    drops, strata = [RULE_OF_THREE / len(examples)], np.array(named)
    for name in np.unique(strata):
        own = change[strata == name]
        drops.append(float(value - task.values(whole + min(RULE_OF_THREE, len(own)) * own.mean(axis=0))[metric]))
    return max(drops)


def _drawn(task: Task, metric: str, before: Counts, after: Counts) -> tuple[Counts, Counts]:
    """The values of both in each resample."""
    groups, sizes = np.unique(np.hstack([before, after]), axis=0, return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(sizes.sum(), sizes / sizes.sum(), size=RESAMPLES)
    one, other = (task.values(draws @ part)[metric] for part in np.split(groups, 2, axis=1))
    return one, other


def _bounds(values: Counts) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
