"""What a step minimizes: the losses of a batch, each divided by what it counts, and mixed as the recipe says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from bertline.tasks.task import Target
from bertline.train.data.micro_batch import MicroBatch
from bertline.train.distillation.relations import Relations
from bertline.train.losses import Loss, TeacherLoss


class Normalizers(NamedTuple):
    """What the summed losses of a batch are divided by; infinity where nothing in the batch counts."""

    labels: float
    teacher: float
    relations: float


@dataclass(frozen=True)
class Objective:
    """The loss against labels, mixed with the losses against a teacher if there is one."""

    labels: Loss
    teacher: TeacherLoss | None = None
    weight: float = 0.0
    """The share of `teacher` in its mix with `labels`, 0 to 1."""
    relations: Relations | None = None
    """Compares the model with a teacher that runs beside it; its loss is added."""

    def normalizers(self, targets: Sequence[Target], lengths: Sequence[int]) -> Normalizers:
        """The normalizers of a batch, from each window's target and its length in tokens."""
        taught = sum(map(self.teacher.terms, lengths)) if self.teacher else 0.0
        return Normalizers(sum(map(self.labels.terms, targets)) or math.inf, taught or math.inf, sum(lengths))

    def share(self, outputs: torch.Tensor, micro_batch: MicroBatch, normalizers: Normalizers) -> torch.Tensor:
        """A micro-batch's share of the loss of the whole batch.

        Args:
            outputs: what the model has just computed: (windows, labels), or (windows, tokens, channels), in fp32.
            micro_batch: what it has computed them from.
            normalizers: those of the whole batch.
        """
        mask = micro_batch.inputs["attention_mask"]
        loss = self.labels.sum(outputs, micro_batch.targets, mask) / normalizers.labels
        if self.teacher is not None and micro_batch.teacher is not None:
            taught = self.teacher.sum(outputs, micro_batch.teacher, mask) / normalizers.teacher
            loss = self.weight * taught + (1 - self.weight) * loss
        if self.relations is not None:
            loss = loss + self.relations.sum(micro_batch.inputs) / normalizers.relations
        return loss * micro_batch.weight
