"""Batches: which examples each optimizer step sees, and how a rank's share of them is padded.

The examples of a step depend on (seed, epoch, position) alone, not on the number of ranks. Texts of similar length are
batched together and each micro-batch is padded to its own longest text, so that little compute is spent on padding.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bertline.artifacts.recipe_schema import Training
from bertline.tasks.tokens import Tokenizer
from bertline.train.data.micro_batch import MicroBatch
from bertline.train.data.prepared import Tokenized
from bertline.train.deepspeed_config import accumulation_steps, micro_batch_size
from bertline.train.objective import Normalizers, Objective

Indices = npt.NDArray[np.int64]
BUCKET = 50
"""Batches per bucket of shuffled examples sorted by length: enough for similar lengths, few enough to stay random."""
BUCKETS = 4
"""Buckets per epoch, at least: with only one, all epochs would have nearly the same batches."""


def global_batches(lengths: npt.ArrayLike, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """The indices of the examples of each optimizer step of an epoch; every example is in exactly one step.

    Args:
        lengths: tokens of each example.
        batch_size: examples per step; if it does not divide their number, one batch is smaller, with mixed lengths.
        seed: the run's seed.
        epoch: counted from 0.
    """
    random = np.random.default_rng((seed, epoch))
    lengths = np.asarray(lengths)
    order = random.permutation(len(lengths))
    size = batch_size * max(1, min(BUCKET, len(lengths) // (BUCKETS * batch_size)))
    left = len(lengths) % batch_size
    buckets = [order[:left], *(order[start : start + size] for start in range(left, len(order), size))]
    ordered = np.concatenate([bucket[np.argsort(lengths[bucket], kind="stable")] for bucket in buckets])
    batches = [batch for batch in np.split(ordered, range(left, len(ordered), batch_size)) if len(batch)]
    return [batches[position] for position in random.permutation(len(batches))]


def deal(batch: Indices, ranks: int, accumulation: int) -> list[list[Indices]]:
    """Split a global batch: `[rank][micro-batch]` is an array of indices, empty where there are too few.

    The batch is sorted by length: neighbors share a micro-batch, and every rank gets both long and short texts.
    """
    micro_batches = np.array_split(batch, accumulation)
    return [[part[rank::ranks] for part in micro_batches] for rank in range(ranks)]


@dataclass(frozen=True)
class Batch:
    """What an optimizer step sees: this rank's micro-batches, and totals over all ranks."""

    micro_batches: list[MicroBatch]
    normalizers: Normalizers
    """What the summed losses are divided by."""
    tokens: int
    """Tokens without padding."""
    computed_tokens: int
    """Tokens including padding."""


class Batches:
    """The batches of a whole run, by step."""

    def __init__(
        self, split: Tokenized, objective: Objective, tokenizer: Tokenizer, training: Training, rank: int, ranks: int
    ) -> None:
        self._split, self._objective, self._tokenizer = split, objective, tokenizer
        self._lengths = split.windows.lengths
        self._training, self._rank, self._ranks = training, rank, ranks
        self._epoch: int | None = None
        self._order: list[Indices] = []
        self.steps_per_epoch = -(-len(split.windows) // training.batch_size)
        self.steps = self.steps_per_epoch * training.epochs

    def prefetch(self, step: int, pin: bool) -> Iterator[Batch]:
        """Yield the batches from a step to the last, each built in a thread while the one before it is computed.

        Args:
            step: the first step, counted from 0.
            pin: whether to put the tensors into pinned memory, for a GPU.
        """
        with ThreadPoolExecutor(1, "batches") as builder:
            built = (builder.submit(self.at, each, pin) for each in range(step, self.steps))
            coming = next(built, None)
            while coming is not None:
                batch = coming.result()
                coming = next(built, None)
                yield batch

    def at(self, step: int, pin: bool = False) -> Batch:
        """The batch of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            training = self._training
            self._epoch = epoch
            self._order = global_batches(self._lengths, training.batch_size, training.seed, epoch)
        batch = self._order[position]
        dealt = deal(batch, self._ranks, accumulation_steps(self._training, self._ranks))
        computed = [self._lengths[part].max() * len(part) for share in dealt for part in share if len(part)]
        micro_batches = [
            self._micro_batch(part if len(part) else batch[:1], len(part) > 0) for part in dealt[self._rank]
        ]
        return Batch(
            micro_batches=[one.pinned() for one in micro_batches] if pin else micro_batches,
            normalizers=self._objective.normalizers(
                [self._split.windows.targets[i] for i in batch], self._lengths[batch].tolist()
            ),
            tokens=int(self._lengths[batch].sum()),
            computed_tokens=int(sum(computed)),
        )

    def heaviest(self) -> MicroBatch:
        """A full micro-batch of the longest windows: no other takes more memory."""
        count = micro_batch_size(self._training, self._ranks)
        heaviest = self._micro_batch(np.argsort(self._lengths, kind="stable")[-count:], counts=True)
        # Without padding, transformers passes no mask, and attention needs less memory than where one text is shorter.
        heaviest.inputs["attention_mask"][0, -1] = 0
        return heaviest

    def _micro_batch(self, indices: Indices, counts: bool) -> MicroBatch:
        split, objective = self._split, self._objective
        inputs = self._tokenizer.pad([split.windows[index] for index in indices])
        longest = inputs["input_ids"].shape[1]
        targets = objective.labels.stack([split.windows.targets[index] for index in indices], longest)
        teacher = None
        if objective.teacher is not None and split.teacher is not None:
            teacher = objective.teacher.stack([split.teacher[index] for index in indices], longest)
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return MicroBatch(tensors, targets, teacher, float(counts))
