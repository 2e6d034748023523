"""95 % intervals of scores and of drops, by the Bayesian bootstrap over the examples of a split.

Scores are functions of summed counts (see `Task.counts`), unchanged if all counts are scaled. Each example gets a
random weight, exponential with mean 1 (Rubin, 1981); examples with the same counts share one weight, which has a gamma
distribution. Resampling whole examples would leave some out of each draw, and understate rare losses.

What shares a weight is not an example but its `Task.unit`: a model that misreads a context may lose several questions
at once, so that single questions would make an interval too narrow (Miller, 2024, arXiv 2411.00640).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from bertline.tasks.task import Answer, Counts, Example, Task

ERROR = 0.05
"""Probability of passing a candidate that should fail, over all looks together."""
DRAWS = 20_000
"""Number of draws. They locate the ends of the first intervals within a percent or two, that of the twentieth look
within ten percent: enough, since all looks from the tenth on share a tenth of ERROR."""
FEWEST = 30
"""Minimum number of regression examples that can show a drop: with fewer, too much passes (see the simulation in
docs/export.md)."""
BLOCK = 250
"""Draws per block: all at once would take 8 GB for 50,000 examples with distinct counts, as in regression, and 4 GB for
1,000 labels."""
SEED = 0


def count_units(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
    """(units, counts): the counts of the answers, summed over the examples of each unit (see `Task.unit`)."""
    counts, units = task.counts(examples, answers), [tuple(task.unit(example)) for example in examples]
    places = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    summed = np.zeros((len(places), counts.shape[1]))
    np.add.at(summed, [places[unit] for unit in units], counts)
    return summed


def interval(task: Task, metric: str, counts: Counts, loss: Counts) -> tuple[float, float]:
    """The interval of a score; its lower end includes one unseen loss, like the upper end of `drop_interval`.

    Args:
        task: the task, which computes scores from counts.
        metric: one of its scores.
        counts: (units, counts) of the answers, from `count_units`.
        loss: one loss, from `worst_case_loss`.
    """
    drawn = [
        (task.values(one + lost * loss[1])[metric], task.values(one)[metric])
        for one, _, lost in _draw_sums(counts, counts)
    ]
    worse, plain = (np.concatenate(each) for each in zip(*drawn, strict=True))
    return float(np.percentile(worse, 100 * ERROR / 2)), float(np.percentile(plain, 100 * (1 - ERROR / 2)))


def drop_interval(
    task: Task, metric: str, before: Counts, after: Counts, loss: Counts, comparison: int = 1
) -> tuple[float, float]:
    """The paired interval of a drop: the score of `before` minus the score of `after` on the same examples.

    Reweighting cannot produce a loss that the examples do not show, and would be overconfident where they show few. So
    one additional loss is weighted in for the upper end. For accuracy without gains, the result is the exact upper end
    of Clopper and Pearson (1934).

    The first of many candidates that happens to pass is wrong more often than a single one. So the upper end spends
    less error after each one that failed: 1/2, 1/6, 1/12 … of ERROR, which add up to ERROR.

    Args:
        task: the task, which computes scores from counts.
        metric: one of its scores.
        before, after: (units, counts) of the answers, from `count_units`.
        loss: one loss, from `worst_case_loss`.
        comparison: 1 plus the number of candidates that failed on the same examples before.
    """
    drawn = [
        (
            task.values(one)[metric] - task.values(other)[metric],
            task.values(one + lost * loss[0])[metric] - task.values(other + lost * loss[1])[metric],
        )
        for one, other, lost in _draw_sums(before, after)
    ]
    seen, drops = (np.concatenate(each) for each in zip(*drawn, strict=True))
    low = np.percentile(seen, 100 * ERROR / 2)
    return float(low), float(np.percentile(drops, 100 * (1 - ERROR / (comparison * (comparison + 1)))))


def unseen(task: Task, metric: str, examples: Sequence[Example]) -> float:
    """The upper end of the drop if every answer is right before and after: the smallest drop the examples can show."""
    right = task.counts(examples, [task.correct_answer(example) for example in examples])
    loss = worst_case_loss(task, metric, examples, right)
    return drop_interval(task, metric, right, right, loss)[1] if loss.any() else 0.0


def has_constant_loss(task: Task, metric: str, examples: Sequence[Example]) -> bool:
    """Whether a loss costs the same whatever the other answers are, as for accuracy.

    For F1 and precision, a loss costs less the more false positives there are, so the cost depends on them.
    """
    wrong = [answer for example in examples if (answer := task.wrong_answer(example)) is not None]
    if len(wrong) < len(examples):
        return True  # there are no losses
    answered = (
        task.counts(examples, [task.correct_answer(example) for example in examples]),
        task.counts(examples, wrong),
    )
    loss = worst_case_loss(task, metric, examples, answered[0])
    one, other = (_cost(task, metric, counts.sum(axis=0), loss) for counts in answered)
    return bool(np.isclose(one, other))


def shows_losses(task: Task, metric: str, examples: Sequence[Example]) -> bool:
    """Whether a loss changes the score: it does not for F1 if there is nothing to find, since every answer scores 0.

    Nor does it for a correlation with numbers that are all equal.
    """
    right = task.counts(examples, [task.correct_answer(example) for example in examples])
    loss, whole = worst_case_loss(task, metric, examples, right), right.sum(axis=0)
    return bool(_cost(task, metric, whole, loss) > 0 if loss.any() else task.values(whole)[metric] > 0)


def worst_case_loss(task: Task, metric: str, examples: Sequence[Example], before: Counts) -> Counts:
    """The loss that costs most: (2, counts), what an example adds to the counts if answered rightly, and if wrongly.

    It is the mean over the examples of one label: a single text of a rare label weighs much in that label's F1. Zeros
    for regression, where answers are never simply wrong.

    Args:
        task: the task of the examples.
        metric: one of its scores.
        examples: labelled examples.
        before: (units, counts) of the reference answers.
    """
    wrong = [answer for example in examples if (answer := task.wrong_answer(example)) is not None]
    if len(wrong) < len(examples):
        return np.zeros((2, before.shape[1]))
    right = [task.correct_answer(example) for example in examples]
    both = np.stack([task.counts(examples, answers) for answers in (right, wrong)], axis=1)
    whole, named = before.sum(axis=0), [task.named(example) or [""] for example in examples]
    labels = sorted({label for own in named for label in own})
    losses = [both[[label in own for own in named]].mean(axis=0) for label in labels]
    return max(losses, key=lambda loss: _cost(task, metric, whole, loss))


def _cost(task: Task, metric: str, whole: Counts, loss: Counts) -> float:
    """How much a loss lowers the score of summed counts."""
    return float(np.subtract(*task.values(whole + loss)[metric]))


def _draw_loss() -> Counts:
    """(draws, 1) weights of one loss: each quantile once, which makes the ends exact where no loss was seen."""
    order = np.random.default_rng((SEED, 1)).permutation(DRAWS)
    return np.asarray(-np.log((order[:, None] + 0.5) / DRAWS))


def _draw_sums(before: Counts, after: Counts) -> Iterator[tuple[Counts, Counts, Counts]]:
    """Yield, by block, (draws, counts) for both, which are weighted sums over the units, and weights of one loss."""
    groups, sizes = np.unique(np.hstack([before, after]), axis=0, return_counts=True)
    chance = np.random.default_rng(SEED)
    for lost in np.split(_draw_loss(), DRAWS // BLOCK):
        sums = chance.standard_gamma(sizes, size=(BLOCK, len(sizes))) @ groups
        yield *np.split(sums, 2, axis=1), lost  # type: ignore[misc]
