"""What a model's outputs cost against labels, or against a teacher's outputs, and of how many terms that is the mean.

A step's loss is the sum over all its windows divided by the sum of their terms, so that it is the same for any number
of ranks and micro-batches.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Distillation, Training
from bertline.artifacts.task import TaskSettings
from bertline.tasks.task import IGNORED, Output, Target

NEVER = -1e4
"""A logit of what cannot be: its probability is 0, and its product with that is a number."""


class Loss:
    """The loss of a task: cross-entropy (weighted, smoothed), binary cross-entropy over labels, or squared error."""

    def __init__(self, settings: TaskSettings, training: Training, targets: Sequence[Target]) -> None:
        """`targets` are the training windows'; balanced weights come from their classes."""
        self.settings = settings
        self.smoothing = training.label_smoothing
        self.weights = class_weights(training.class_weights, settings.labels, targets)
        self._copies: dict[torch.device, torch.Tensor] = {}

    def terms(self, target: Target) -> float:
        """What a window counts for in a mean: its targets, each with its class weight."""
        if target.dtype.kind == "f":
            return float(not np.isnan(target).any())
        if self.settings.task == "question-answering":
            return float(target[0] != IGNORED)
        classes = target[target != IGNORED]
        return float(len(classes.ravel()) if self.weights is None else self.weights[classes].sum())

    def stack(self, targets: Sequence[Target], longest: int) -> torch.Tensor:
        """Targets of a batch: (windows, …); those of tokens are padded to the longest window, with nothing to learn."""
        if self.settings.task != "token-classification":
            return torch.from_numpy(np.stack(targets))
        padded = np.full((len(targets), longest), IGNORED, np.int64)
        for row, target in enumerate(targets):
            padded[row, : len(target)] = target
        return torch.from_numpy(padded)

    def sum(self, outputs: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The summed loss of a batch, whatever it is padded to.

        Args:
            outputs: (windows, labels), or (windows, tokens, channels), in fp32.
            targets: as `stack` makes them.
            mask: (windows, tokens), 1 for a token, 0 for padding.
        """
        if self.settings.task == "question-answering":  # a class among the tokens, for the start and for the end
            tokens = outputs.masked_fill(mask[:, :, None] == 0, NEVER)
            return functional.cross_entropy(tokens, targets, ignore_index=IGNORED, reduction="sum") / 2
        if targets.is_floating_point():  # of a text without a label they are no numbers
            costs = self._of_numbers(outputs, targets.nan_to_num())
            return (costs * ~targets.isnan().reshape(len(targets), -1).any(dim=1)).sum()
        return functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), self._weights_on(outputs.device), ignore_index=IGNORED,
            reduction="sum", label_smoothing=self.smoothing,
        )  # fmt: skip

    def _weights_on(self, device: torch.device) -> torch.Tensor | None:
        """The classes' weights, copied to a device once: a step that copied them would wait for it."""
        if self.weights is not None and device not in self._copies:
            self._copies[device] = torch.from_numpy(self.weights).to(device)
        return self._copies.get(device)

    def _of_numbers(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(windows,) the cost of a number, or the mean cost over labels."""
        if self.settings.problem_type == "regression":
            return functional.mse_loss(outputs[:, 0], targets, reduction="none")
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)


class TeacherLoss:
    """The loss against a teacher's outputs: how far the student's probabilities are from the teacher's, both softened.

    That is T²·KL(teacher ‖ student) at temperature T, whose gradient is as large as that of a loss against labels
    (arXiv:1503.02531, section 2); of several labels the binary cross-entropy of each; of a number the squared error.
    """

    def __init__(self, settings: TaskSettings, distillation: Distillation) -> None:
        self.settings, self.temperature = settings, distillation.temperature

    def terms(self, tokens: int) -> float:
        """What a window of that many tokens counts for in a mean: each token of a task that labels all of them."""
        return float(tokens) if self.settings.task == "token-classification" else 1.0

    def stack(self, outputs: Sequence[Output], longest: int) -> torch.Tensor:
        """A teacher's outputs of a batch, those of tokens padded to the longest window."""
        if outputs[0].ndim == 1:
            return torch.from_numpy(np.stack(outputs))
        padded = np.zeros((len(outputs), longest, outputs[0].shape[-1]), np.float32)
        for row, output in enumerate(outputs):
            padded[row, : len(output)] = output
        return torch.from_numpy(padded)

    def sum(self, outputs: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The summed loss of a batch.

        Args:
            outputs: (windows, labels), or (windows, tokens, channels), in fp32.
            teacher: the same of the teacher.
            mask: (windows, tokens), 1 for a token, 0 for padding.
        """
        if self.settings.problem_type == "regression":
            return functional.mse_loss(outputs, teacher, reduction="sum")
        student, teacher = outputs / self.temperature, teacher / self.temperature
        if self.settings.problem_type == "multi_label_classification":
            costs = functional.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").mean(1)
        elif self.settings.task == "question-answering":  # a class among the tokens, for the start and for the end
            padding = mask[:, :, None] == 0
            costs = divergence(student.masked_fill(padding, NEVER), teacher.masked_fill(padding, NEVER), 1) / 2
        elif self.settings.task == "token-classification":
            costs = divergence(student, teacher, -1) * mask
        else:
            costs = divergence(student, teacher, -1)
        return costs.sum() * self.temperature**2


class Normalizers(NamedTuple):
    """What a batch's summed losses are divided by; infinity where nothing of them counts."""

    labels: float
    teacher: float


class Objective:
    """What a step makes smaller: the loss against labels and, where there is a teacher, that against its outputs."""

    def __init__(self, labels: Loss, teacher: TeacherLoss | None = None, weight: float = 0.0) -> None:
        """`weight` is the teacher's share."""
        self.labels, self.teacher, self.weight = labels, teacher, weight

    def normalizers(self, targets: Sequence[Target], lengths: Sequence[int]) -> Normalizers:
        """Those of a batch, by the target and the tokens of each window."""
        taught = sum(map(self.teacher.terms, lengths)) if self.teacher else 0.0
        return Normalizers(sum(map(self.labels.terms, targets)) or math.inf, taught or math.inf)

    def share(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        teacher: torch.Tensor | None,
        mask: torch.Tensor,
        normalizers: Normalizers,
    ) -> torch.Tensor:
        """A micro-batch's part of the loss of the batch with those terms."""
        loss = self.labels.sum(outputs, targets, mask) / normalizers.labels
        if self.teacher is None or teacher is None:
            return loss
        taught = self.teacher.sum(outputs, teacher, mask) / normalizers.teacher
        return self.weight * taught + (1 - self.weight) * loss


def divergence(student: torch.Tensor, teacher: torch.Tensor, dim: int) -> torch.Tensor:
    """KL(teacher ‖ student) of logits along a dimension."""
    both = functional.log_softmax(student, dim), functional.log_softmax(teacher, dim)
    return functional.kl_div(*both, reduction="none", log_target=True).sum(dim)


def class_weights(wanted: Any, labels: Sequence[str], targets: Sequence[Target]) -> npt.NDArray[np.float32] | None:
    """A weight for each label: as the recipe says, or balanced, n / (labels · count), as scikit-learn has it.

    A label that no target has (I-X where entities have one word) weighs nothing: label smoothing would teach it.
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
