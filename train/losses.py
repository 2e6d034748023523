"""Losses of a model's outputs against labels and against a teacher's outputs.

A step's loss is the sum over all its windows divided by the sum of their terms, which is how much each of them counts.
So it is the same for any number of ranks and micro-batches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Distillation, Training
from bertline.artifacts.task import TaskSettings
from bertline.tasks.task import IGNORED, Output, Target

NEVER = -1e4
"""A finite logit for an impossible class: its probability is 0, and their product is not NaN as it is with -inf."""


class Loss:
    """The loss of a task: cross-entropy (weighted, smoothed), binary cross-entropy over labels, or squared error."""

    def __init__(self, settings: TaskSettings, training: Training, targets: Sequence[Target]) -> None:
        """`targets` are those of the training windows; balanced class weights are computed from them."""
        self.settings = settings
        self.smoothing = training.label_smoothing
        self.weights = class_weights(training.class_weights, settings.labels, targets)
        self._copies: dict[torch.device, torch.Tensor] = {}

    def terms(self, target: Target) -> float:
        """How much a window counts in a mean: its number of targets, or the sum of their class weights."""
        if target.dtype.kind == "f":
            return float(not np.isnan(target).any())
        if self.settings.task == "question-answering":
            return float(target[0] != IGNORED)
        classes = target[target != IGNORED]
        return float(len(classes.ravel()) if self.weights is None else self.weights[classes].sum())

    def stack(self, targets: Sequence[Target], longest: int) -> torch.Tensor:
        """The targets of a batch: (windows, …); token targets are padded to the longest window with IGNORED."""
        if self.settings.task != "token-classification":
            return torch.from_numpy(np.stack(targets))
        return padded(targets, longest, IGNORED)

    def sum(self, outputs: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The summed loss of a batch, which does not depend on its padding.

        Args:
            outputs: (windows, labels), or (windows, tokens, channels), in fp32.
            targets: as `stack` makes them.
            mask: (windows, tokens), 1 for a token, 0 for padding.
        """
        if self.settings.task == "question-answering":  # start and end are each a class among the tokens
            tokens = outputs.masked_fill(mask[:, :, None] == 0, NEVER)
            return functional.cross_entropy(tokens, targets, ignore_index=IGNORED, reduction="sum") / 2
        if targets.is_floating_point():  # NaN marks a text without a label
            costs = self._of_numbers(outputs, targets.nan_to_num())
            return (costs * ~targets.isnan().reshape(len(targets), -1).any(dim=1)).sum()
        return functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), self._weights_on(outputs.device), ignore_index=IGNORED,
            reduction="sum", label_smoothing=self.smoothing,
        )  # fmt: skip

    def _weights_on(self, device: torch.device) -> torch.Tensor | None:
        """The class weights, copied to a device once: copying them in every step would wait for the device."""
        if self.weights is not None and device not in self._copies:
            self._copies[device] = torch.from_numpy(self.weights).to(device)
        return self._copies.get(device)

    def _of_numbers(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The squared error of a number, or the mean cross-entropy over labels: (windows,)."""
        if self.settings.problem_type == "regression":
            return functional.mse_loss(outputs[:, 0], targets, reduction="none")
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)


class TeacherLoss:
    """The distillation loss: how far the student's softened probabilities are from the teacher's.

    One label: T²·KL(teacher ‖ student) at temperature T, whose gradients are as large as those of a loss against labels
    (arXiv:1503.02531, section 2). Several labels: T² times their mean binary cross-entropy. A number: squared error.
    """

    def __init__(self, settings: TaskSettings, distillation: Distillation) -> None:
        self.settings, self.temperature = settings, distillation.temperature

    def terms(self, tokens: int) -> float:
        """How much a window counts in a mean: its number of `tokens` if the task labels tokens, else 1."""
        return float(tokens) if self.settings.task == "token-classification" else 1.0

    def stack(self, outputs: Sequence[Output], longest: int) -> torch.Tensor:
        """A teacher's outputs for a batch; those of tokens are padded with zeros to the longest window."""
        if outputs[0].ndim == 1:
            return torch.from_numpy(np.stack(outputs))
        return padded(outputs, longest, 0.0)

    def sum(self, outputs: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The summed loss of a batch.

        Args:
            outputs: (windows, labels), or (windows, tokens, channels), in fp32.
            teacher: the teacher's outputs, of the same shape.
            mask: (windows, tokens), 1 for a token, 0 for padding.
        """
        if self.settings.problem_type == "regression":
            return functional.mse_loss(outputs, teacher, reduction="sum")
        student, teacher = outputs / self.temperature, teacher / self.temperature
        if self.settings.problem_type == "multi_label_classification":
            costs = functional.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").mean(1)
        elif self.settings.task == "question-answering":  # start and end are each a class among the tokens
            padding = mask[:, :, None] == 0
            costs = divergence(student.masked_fill(padding, NEVER), teacher.masked_fill(padding, NEVER), 1) / 2
        elif self.settings.task == "token-classification":
            costs = divergence(student, teacher, -1) * mask
        else:
            costs = divergence(student, teacher, -1)
        return costs.sum() * self.temperature**2


def padded(rows: Sequence[npt.NDArray[Any]], longest: int, fill: float) -> torch.Tensor:
    """Values of tokens as (windows, longest, …), with `fill` for padding."""
    whole = np.full((len(rows), longest, *rows[0].shape[1:]), fill, rows[0].dtype)
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    return torch.from_numpy(whole)


def divergence(student: torch.Tensor, teacher: torch.Tensor, dim: int) -> torch.Tensor:
    """KL(teacher ‖ student), from logits, summed along a dimension."""
    both = functional.log_softmax(student, dim), functional.log_softmax(teacher, dim)
    return functional.kl_div(*both, reduction="none", log_target=True).sum(dim)


def class_weights(wanted: Any, labels: Sequence[str], targets: Sequence[Target]) -> npt.NDArray[np.float32] | None:
    """A weight for each label: the recipe's, or balanced as in scikit-learn, n / (labels · count).

    A label without any target (I-X if every entity is one word) weighs 0: otherwise label smoothing would teach it.

    Raises:
        InputError: a weight is given for a label that does not exist.
    """
    if wanted is None:
        return None
    if isinstance(wanted, dict):
        if unknown := sorted(wanted.keys() - set(labels)):
            named = ", ".join(map(repr, unknown))
            raise InputError(f"training.class_weights: {named}: no such label; there are {', '.join(labels)}")
        return np.array([wanted.get(label, 1.0) for label in labels], np.float32)
    counts = np.zeros(len(labels), np.int64)
    for target in targets:
        counts += np.bincount(target[target != IGNORED].ravel(), minlength=len(labels))
    balanced = counts.sum() / (len(labels) * np.maximum(counts, 1))
    return np.where(counts > 0, balanced, 0.0).astype(np.float32)
