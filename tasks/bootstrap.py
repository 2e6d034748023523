"""How closely the examples of a split can tell a score: 95 % intervals by the Bayesian bootstrap over the examples.

Scores are functions of summed counts (see `Task.counts`), and the same of any multiple of them. Each example gets a
weight by chance, exponential with a mean of 1 (Rubin, 1981); those with the same counts get one together, whose
distribution is gamma. Whole draws would leave out some each time, and tell too little of losses that are few.
"""

from collections.abc import Sequence

import numpy as np

from bertline.tasks.task import Counts, Example, Task

ERROR = 0.05
"""How likely something wrong may be taken for right, over all that are looked at."""
DRAWS = 20_000
"""They find the ends of the first looks within a hundredth or two, that of the twentieth within a tenth: enough, as
all looks from the tenth on have a tenth of ERROR together."""
FEWEST = 30
"""Numbers that tell a drop: of fewer too much passes (docs/export.md has what a simulation showed)."""
BLOCK = 250
"""Draws made at once: all at once take 8 GB where 50,000 examples have counts of their own, as numbers have."""
SEED = 0


def interval(task: Task, metric: str, counts: Counts, loss: Counts) -> tuple[float, float]:
    """Of a score; its lower end is found as the upper one of `drop_interval`, so that no mistake seen is not none.

    Args:
        task: gives the values.
        metric: one of them.
        counts: (examples, counts), of the answers.
        loss: one, as `worst_case_loss` gives it.
    """
    one, _ = _draw_sums(counts, counts)
    low = np.percentile(task.values(one + _draw_loss() * loss[1])[metric], 100 * ERROR / 2)
    return float(low), float(np.percentile(task.values(one)[metric], 100 * (1 - ERROR / 2)))


def drop_interval(
    task: Task, metric: str, before: Counts, after: Counts, loss: Counts, comparison: int = 1
) -> tuple[float, float]:
    """Of a drop (the score of `before` minus that of `after`), paired: both answered the same examples.

    Weights know no loss that the examples do not show, and would be too sure where these show few. So for the upper end
    one loss more than was seen is among what is weighed. Of accuracy, where none is won, that is the exact upper end of
    Clopper and Pearson (1934).

    The first of many that happens to pass would be wrong more often than one that is looked at alone. So the upper end
    of each leaves less error than that of the one before: 1/2, 1/6, 1/12 … of ERROR, which add up to it.

    Args:
        task: gives the values.
        metric: one of them.
        before, after: (examples, counts), of the answers.
        loss: one, as `worst_case_loss` gives it.
        comparison: how many have been held against the same examples to choose among them, with this one.
    """
    one, other = _draw_sums(before, after)
    low = np.percentile(task.values(one)[metric] - task.values(other)[metric], 100 * ERROR / 2)
    lost = _draw_loss()
    drops = task.values(one + lost * loss[0])[metric] - task.values(other + lost * loss[1])[metric]
    return float(low), float(np.percentile(drops, 100 * (1 - ERROR / (comparison * (comparison + 1)))))


def unseen(task: Task, metric: str, examples: Sequence[Example]) -> float:
    """The upper end of the drop where every answer is right, before and after: what so few examples cannot tell."""
    right = task.counts(examples, [task.correct_answer(example) for example in examples])
    loss = worst_case_loss(task, metric, examples, right)
    return drop_interval(task, metric, right, right, loss)[1] if loss.any() else 0.0


def has_constant_loss(task: Task, metric: str, examples: Sequence[Example]) -> bool:
    """Whether a loss costs the same whatever else is answered, as of accuracy.

    Of F1 and precision it costs the less the more was found wrongly, so that the most is not lost where all is right.
    """
    wrong = [answer for example in examples if (answer := task.wrong_answer(example)) is not None]
    if len(wrong) < len(examples):
        return True  # nothing is ever lost
    answered = (
        task.counts(examples, [task.correct_answer(example) for example in examples]),
        task.counts(examples, wrong),
    )
    loss = worst_case_loss(task, metric, examples, answered[0])
    one, other = (_cost(task, metric, counts.sum(axis=0), loss) for counts in answered)
    return bool(np.isclose(one, other))


def shows_losses(task: Task, metric: str, examples: Sequence[Example]) -> bool:
    """Whether a loss costs anything: of F1 none does where there is nothing to be found, as no answer is worth more.

    Nor does one of a correlation with numbers that are all the same.
    """
    right = task.counts(examples, [task.correct_answer(example) for example in examples])
    loss, whole = worst_case_loss(task, metric, examples, right), right.sum(axis=0)
    return bool(_cost(task, metric, whole, loss) > 0 if loss.any() else task.values(whole)[metric] > 0)


def worst_case_loss(task: Task, metric: str, examples: Sequence[Example], before: Counts) -> Counts:
    """The loss that costs most: (2, counts), what an example adds where it is answered rightly, and where it is not.

    It is the mean over the examples with one label: a single text of a rare label is much of that label's F1. Zeros
    where answers are never wrong, but only far off: few examples show that as well as many.

    Args:
        task: of the examples.
        metric: one of its scores.
        examples: labelled.
        before: (examples, counts), of the answers that others are held to.
    """
    wrong = [answer for example in examples if (answer := task.wrong_answer(example)) is not None]
    if len(wrong) < len(examples):
        return np.zeros((2, before.shape[1]))
    right = [task.correct_answer(example) for example in examples]
    both = np.stack([task.counts(examples, answers) for answers in (right, wrong)], axis=1)
    whole, named = before.sum(axis=0), [task.named(example) or [""] for example in examples]
    labels = sorted({label for own in named for label in own})
    of_each = [both[[label in own for own in named]].mean(axis=0) for label in labels]
    return max(of_each, key=lambda loss: _cost(task, metric, whole, loss))


def _cost(task: Task, metric: str, whole: Counts, loss: Counts) -> float:
    """What a loss takes from the score of summed counts."""
    return float(np.subtract(*task.values(whole + loss)[metric]))


def _draw_loss() -> Counts:
    """(draws, 1): what one loss weighs: each quantile of a weight once, by which ends are exact where none was seen."""
    order = np.random.default_rng((SEED, 1)).permutation(DRAWS)
    return np.asarray(-np.log((order[:, None] + 0.5) / DRAWS))


def _draw_sums(before: Counts, after: Counts) -> tuple[Counts, Counts]:
    """(draws, counts) of both, summed over the examples by their weights."""
    groups, sizes = np.unique(np.hstack([before, after]), axis=0, return_counts=True)
    chance = np.random.default_rng(SEED)
    weights = (chance.standard_gamma(sizes, size=(BLOCK, len(sizes))) for _ in range(DRAWS // BLOCK))
    one, other = np.split(np.concatenate([each @ groups for each in weights]), 2, axis=1)
    return one, other
