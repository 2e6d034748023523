"""What a model's outputs cost against the targets of a task, and how many terms that cost is the mean of.

A step's loss is the sum over all its windows divided by the sum of their terms, so that it is the same for any number
of ranks and micro-batches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from bertline.artifacts.recipe import Training
from bertline.artifacts.task import TaskSettings
from bertline.tasks.task import IGNORED

Target = npt.NDArray[Any]
"""Of a window: a class, a value, one for each label, or one for each token."""


class Loss:
    """The loss of a task: cross-entropy (weighted, smoothed), binary cross-entropy over labels, or squared error."""

    def __init__(self, settings: TaskSettings, training: Training, targets: Sequence[Target]) -> None:
        """`targets` are the training windows'; balanced weights come from their classes."""
        self.settings = settings
        self.smoothing = training.label_smoothing
        self.weights = class_weights(training.class_weights, settings.labels, targets)

    def terms(self, target: Target) -> float:
        """What a window counts for in a mean: its targets, each with its class weight."""
        if self.settings.task == "question-answering" or target.dtype.kind == "f":
            return 1.0
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

    def sum(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The summed loss of a batch.

        Args:
            outputs: (windows, labels), or (windows, tokens, channels), in fp32.
            targets: as `stack` makes them.
        """
        if self.settings.task == "question-answering":  # a class among the tokens, for the start and for the end
            return functional.cross_entropy(outputs, targets, reduction="sum") / 2
        if self.settings.problem_type == "regression":
            return functional.mse_loss(outputs[:, 0], targets, reduction="sum")
        if self.settings.problem_type == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1).sum()
        weights = None if self.weights is None else torch.from_numpy(self.weights).to(outputs)
        return functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), weights, ignore_index=IGNORED, reduction="sum",
            label_smoothing=self.smoothing,
        )  # fmt: skip


def class_weights(wanted: Any, labels: Sequence[str], targets: Sequence[Target]) -> npt.NDArray[np.float32] | None:
    """A weight for each label: as the recipe says, or balanced, n / (labels · count), as scikit-learn has it."""
    if wanted is None:
        return None
    if isinstance(wanted, dict):
        return np.array([wanted.get(label, 1.0) for label in labels], np.float32)
    counts = np.zeros(len(labels), np.int64)
    for target in targets:
        counts += np.bincount(target[target != IGNORED].ravel(), minlength=len(labels))
    return np.asarray(counts.sum() / (len(labels) * np.maximum(counts, 1)), np.float32)
