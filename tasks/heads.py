"""What the head of a trained model shows in config.json, for models whose task neither a run nor a bundle recorded.

The architecture shows the task, and `id2label` the names of the outputs. Names that tell nothing are replaced by the
labels of whoever asks (a bundle that is measured, a student that learns), in order, if there are as many.
"""

from collections.abc import Sequence
from typing import Any

from bertline.artifacts import encoder
from bertline.artifacts.task import TaskName, TaskSettings, Tokens
from bertline.tasks.catalog import TASKS


def task(config: dict[str, Any]) -> TaskName | None:
    """The task of the architecture that config.json names; None if it is unknown."""
    names = encoder.architectures(config)
    return next((task for task, kind in TASKS.items() for name in names if name.endswith(kind.architecture)), None)


def labels(config: dict[str, Any], task: TaskName) -> list[str]:
    """Names of the outputs 0, 1, …; none for question answering, as in `TaskSettings.labels`."""
    return [] if task == "question-answering" else encoder.label_names(config)


def nameless(labels: Sequence[str]) -> bool:
    """Whether labels are those of transformers for outputs without names: LABEL_0, LABEL_1, …"""
    return list(labels) == [f"LABEL_{index}" for index in range(len(labels))]


def settings(config: dict[str, Any], asked: TaskSettings) -> TaskSettings:
    """The settings of a model that is to do the task of `asked`: the same, but with its own labels.

    Its labels are named as by `named_as`, and it reads no more tokens than it has positions for.
    """
    own = {"labels": labels(config, asked.task), "tokens": _within(encoder.max_tokens(config), asked.tokens)}
    return named_as(asked, asked.model_copy(update=own))


def named_as(asked: TaskSettings, own: TaskSettings) -> TaskSettings:
    """A model's own settings, with the labels of `asked` if its own are only names and there are as many.

    These are the labels of `nameless` outputs, and the single label of a regression, whatever it is called.
    """
    number = own.problem_type == asked.problem_type == "regression"
    only_names = number or nameless(own.labels)
    if only_names and len(own.labels) == len(asked.labels):
        return own.model_copy(update={"labels": asked.labels})
    return own


def _within(positions: int, tokens: Tokens) -> Tokens:
    """How texts become at most as many tokens as there are positions; windows then share at most a quarter."""
    if tokens.max_length <= positions:
        return tokens
    return tokens.model_copy(update={"max_length": positions, "stride": min(tokens.stride, positions // 4)})
