"""Intervals against plain resampling of examples, and against exact ones."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bertline.artifacts.task import Input, TaskSettings, Tokens
from bertline.tasks import bootstrap, catalog
from bertline.tasks.task import Counts, Example
from tests.conftest import classifier

TASK = catalog.make(classifier(labels="abc"))
NO_LOSS = np.zeros((2, 11))
"""Of TASK's counts: the interval is then that of plain resampling."""


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
    found = bootstrap.drop_interval(TASK, metric, before, after, NO_LOSS)
    np.testing.assert_allclose(found, expected, atol=0.015)
    alone = bootstrap.interval(TASK, metric, before, NO_LOSS)
    np.testing.assert_allclose(alone, np.percentile(ones, (2.5, 97.5)), atol=0.015)


def drop_of(lost: int, count: int, look: int = 1) -> tuple[float, float]:
    """The interval of the accuracy where a candidate loses some of the texts that are all answered rightly."""
    gold = np.zeros(count, np.int64)
    candidate = np.where(np.arange(count) < lost, 1, 0)
    before, after = counts(gold, gold), counts(gold, candidate)
    loss = bootstrap.worst_case_loss(TASK, "accuracy", [Example("", None, "a")] * count, before)
    return bootstrap.drop_interval(TASK, "accuracy", before, after, loss, look)


def test_questions_about_one_context_are_one_observation() -> None:
    """400 contexts with five questions each, of which eight are lost whole, tell as much as 400 texts, eight lost."""
    inputs: list[Input] = ["question", "context"]
    settings = TaskSettings(task="question-answering", inputs=inputs, labels=[], tokens=Tokens(max_length=128))
    task = catalog.make(settings)
    examples = [Example(f"{at}?", f"{at // 5}", [{"text": "Paris", "start": 0}]) for at in range(2000)]
    before, after = (
        bootstrap.count_units(task, examples, [{"answer": "" if at // 5 < lost else "Paris"} for at in range(2000)])
        for lost in (0, 8)
    )
    found = bootstrap.drop_interval(task, "exact_match", before, after, np.zeros((2, before.shape[1])))
    gold, other = np.zeros(400, np.int64), np.arange(400) < 8
    alike = bootstrap.drop_interval(TASK, "accuracy", counts(gold, gold), counts(gold, other * 1), NO_LOSS)
    assert found == pytest.approx(alike, rel=1e-9)


LEVELS = [1 - 0.05 / (look * (look + 1)) for look in range(1, 21)]
"""1/2, 1/6, 1/12 … of 5 %: the more were looked at, the higher is the upper end."""


@pytest.mark.parametrize("lost", [0, 1, 2, 5, 20])
@pytest.mark.parametrize("look", [1, 2, 5, 20])
def test_the_upper_end_is_the_exact_one_of_clopper_and_pearson(lost: int, look: int) -> None:
    low, high = drop_of(lost, 1000, look)
    assert high == pytest.approx(stats.beta.ppf(LEVELS[look - 1], lost + 1, 1000 - lost), rel=0.1 if look > 5 else 0.04)
    assert low == drop_of(lost, 1000)[0]


def test_all_looks_together_leave_five_in_a_hundred() -> None:
    assert 0.047 < sum(1 - level for level in LEVELS) < 0.05


def test_a_score_without_mistakes_has_the_exact_lower_end() -> None:
    right = counts(np.zeros(1000, np.int64), np.zeros(1000, np.int64))
    loss = bootstrap.worst_case_loss(TASK, "accuracy", [Example("", None, "a")] * 1000, right)
    low, high = bootstrap.interval(TASK, "accuracy", right, loss)
    assert low == pytest.approx(0.025 ** (1 / 1000), abs=1e-4)
    assert high == 1


def test_a_gain_of_many_examples_is_a_gain() -> None:
    gold, first, _ = answers()
    before, after = counts(gold, first), counts(gold, gold)
    loss = bootstrap.worst_case_loss(TASK, "accuracy", [Example("", None, "abc"[index]) for index in gold], before)
    low, high = bootstrap.drop_interval(TASK, "accuracy", before, after, loss)
    assert low < np.mean(first == gold) - 1 < high < 0


def test_the_same_answers_give_the_same_interval() -> None:
    gold, first, second = answers()
    both = counts(gold, first), counts(gold, second)
    assert bootstrap.drop_interval(TASK, "f1", *both, NO_LOSS) == bootstrap.drop_interval(TASK, "f1", *both, NO_LOSS)


def unseen(settings: TaskSettings, metric: str, examples: list[Example]) -> float:
    """The most that may be lost where all answers are right, before and after."""
    return bootstrap.unseen(catalog.make(settings), metric, examples)


@pytest.mark.parametrize(("metric", "least"), [("accuracy", 0.0037), ("f1", 0.25), ("macro_f1", 0.125)])
def test_few_examples_of_a_label_tell_little_of_it(metric: str, least: float) -> None:
    """As many as five more may be answered wrongly by a model that answers these five rightly."""
    rare = [Example("", None, "b" if index < 5 else "a") for index in range(1000)]
    half = [Example("", None, "ab"[index % 2]) for index in range(1000)]
    assert unseen(classifier(labels="ab"), metric, rare) >= least - 0.025
    assert unseen(classifier(labels="ab"), metric, half) == pytest.approx(1 - 0.025 ** (1 / 1000), abs=2e-4)


ENTITIES = TaskSettings(
    task="token-classification", problem_type=None, inputs=["text"], labels=["O", "B-X", "I-X"],
    tokens=Tokens(max_length=32),
)  # fmt: skip
ENTITY = [{"start": 0, "end": 5, "label": "X"}]
SEVERAL = classifier(labels="ab").model_copy(update={"problem_type": "multi_label_classification"})


@pytest.mark.parametrize("count", [30, 300])
@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_few_entities_tell_little_however_many_texts(metric: str, count: int) -> None:
    """So many of 300 sentences hold one; more than three that are found elsewhere are both missed and found wrongly."""
    examples = [Example("Paris is far", None, ENTITY if index < count else []) for index in range(300)]
    assert unseen(ENTITIES, metric, examples) >= 3 / (count + 3) - 1e-9


@pytest.mark.parametrize("metric", ["micro_f1", "f1", "precision"])
def test_few_texts_with_a_label_of_several_tell_little_of_it(metric: str) -> None:
    """More than three may get the other label, which is missed in one and found wrongly in the other."""
    examples = [Example("", None, [["a"], ["b"], []][min(index // 30, 2)]) for index in range(300)]
    assert unseen(SEVERAL, metric, examples) > 3 / 63


@pytest.mark.parametrize(
    ("settings", "label", "metrics"),
    [
        (classifier(labels="ab"), "a", {"accuracy": True, "recall": True, "precision": False, "macro_f1": False}),
        (ENTITIES, ENTITY, {"recall": True, "f1": False, "precision": False}),
        (SEVERAL, ["a"], {"micro_f1": False}),
    ],
)
def test_only_some_metrics_lose_as_much_whatever_is_answered(
    settings: TaskSettings, label: Any, metrics: dict[str, bool]
) -> None:
    """A model that finds too much loses less F1 by one more loss than one that is always right."""
    other = "b" if label == "a" else []
    examples = [Example("Paris is far", None, label if index < 50 else other) for index in range(100)]
    task = catalog.make(settings)
    right, much = (task.counts(examples, [task.correct_answer(example) for example in examples]) for _ in range(2))
    much[60:] = task.counts(examples, [task.wrong_answer(example) or {} for example in examples])[60:]
    for metric, told in metrics.items():
        assert bootstrap.has_constant_loss(task, metric, examples) is told, metric
        losses = [bootstrap.worst_case_loss(task, metric, examples, before) for before in (right, much)]
        most, less = (
            bootstrap.drop_interval(task, metric, before, before, loss)[1]
            for before, loss in zip((right, much), losses, strict=True)
        )
        assert (less == pytest.approx(most, rel=0.05)) is told, metric


def test_texts_without_an_entity_show_no_loss() -> None:
    task, none = catalog.make(ENTITIES), [Example("Paris is far", None, [])] * 300
    one = [*none, Example("Paris is far", None, ENTITY)]
    assert [bootstrap.shows_losses(task, "f1", examples) for examples in (none, one)] == [False, True]


def test_numbers_that_are_all_the_same_show_no_loss() -> None:
    task = catalog.make(classifier(labels=["score"]).model_copy(update={"problem_type": "regression"}))
    same, apart = ([Example("", None, 3.0 + step * index) for index in range(50)] for step in (0, 1))
    assert [bootstrap.shows_losses(task, "pearson", examples) for examples in (same, apart)] == [False, True]


def test_numbers_are_told_apart_by_resampling_alone() -> None:
    settings = classifier(labels=["score"]).model_copy(update={"problem_type": "regression"})
    task, examples = catalog.make(settings), [Example("", None, float(index)) for index in range(50)]
    before = task.counts(examples, [{"value": index + (-1) ** index} for index in range(50)])
    assert not bootstrap.worst_case_loss(task, "pearson", examples, before).any()
    assert unseen(settings, "pearson", examples) == 0


def test_many_examples_that_all_differ_take_no_more_memory() -> None:
    """All draws of these 500 at once would take 40 MB."""
    settings = classifier(labels=["score"]).model_copy(update={"problem_type": "regression"})
    task, examples = catalog.make(settings), [Example("", None, float(index)) for index in range(500)]
    before = task.counts(examples, [{"value": index + (-1) ** index} for index in range(500)])
    none = bootstrap.worst_case_loss(task, "mse", examples, before)
    bootstrap.interval(task, "mse", before[:2], none)  # imports
    tracemalloc.start()
    bootstrap.interval(task, "mse", before, none)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20e6


def test_many_labels_take_no_more_memory() -> None:
    """All draws of these 500 at once would take 480 MB."""
    task = catalog.make(classifier(labels=[str(number) for number in range(500)]))
    examples = [Example("", None, str(number % 500)) for number in range(1000)]
    before = task.counts(examples, [{"label": example.gold} for example in examples])
    none = bootstrap.worst_case_loss(task, "accuracy", examples[:2], before)
    tracemalloc.start()
    bootstrap.drop_interval(task, "macro_f1", before, before, none)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 80e6


QUESTIONS: list[Input] = ["question", "context"]
TASKS: dict[str, tuple[TaskSettings, list[Any], str]] = {
    "one label": (classifier(labels="ab"), ["a", "b"], "accuracy"),
    "several": (SEVERAL, [[], ["a"], ["a", "b"]], "accuracy"),
    "entities": (ENTITIES, [ENTITY, [*ENTITY, {"start": 6, "end": 7, "label": "X"}]], "f1"),
    "question": (
        TaskSettings(
            task="question-answering", problem_type=None, inputs=QUESTIONS, labels=[], tokens=Tokens(max_length=32)
        ),
        [[], [{"text": "Paris", "answer_start": 0}]],
        "f1",
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_are_right_and_wrong_ones_wrong(name: str) -> None:
    settings, golds, metric = TASKS[name]
    task = catalog.make(settings)
    for gold in golds:
        example = Example("where?", "Paris", gold)
        assert task.values(task.counts([example], [task.correct_answer(example)])[0])[metric] == 1
        assert task.values(task.counts([example], [task.wrong_answer(example) or {}])[0])[metric] == 0
