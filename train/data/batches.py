"""Batches: which examples each optimizer step sees, and how a rank's share of them is padded.

The examples of a step are a function of (seed, epoch, position) alone, whatever the ranks. Texts of like length stand
together, and each micro-batch is padded to its own longest text, so that few tokens are computed for nothing.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bertline.artifacts.recipe_schema import Training
from bertline.tasks.tokens import Tokenizer
from bertline.train.data.prepared import Tokenized
from bertline.train.deepspeed_config import accumulation_steps, micro_batch_size
from bertline.train.losses import Normalizers, Objective

Indices = npt.NDArray[np.int64]
BUCKET = 50
"""Batches' worth of shuffled examples that are sorted by length: enough for like lengths, few enough for chance."""
BUCKETS = 4
"""Of an epoch, at least: within one bucket every epoch would have nearly the same batches."""


def global_batches(lengths: npt.ArrayLike, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """The indices of each optimizer step of an epoch; every example stands in exactly one.

    Args:
        lengths: tokens of each example.
        batch_size: examples a step; where it does not divide, one batch is smaller, of any lengths.
        seed: of the run.
        epoch: counted from 0.
    """
    chance = np.random.default_rng((seed, epoch))
    lengths = np.asarray(lengths)
    order = chance.permutation(len(lengths))
    size = batch_size * max(1, min(BUCKET, len(lengths) // (BUCKETS * batch_size)))
    left = len(lengths) % batch_size
    buckets = [order[:left], *(order[start : start + size] for start in range(left, len(order), size))]
    alike = np.concatenate([bucket[np.argsort(lengths[bucket], kind="stable")] for bucket in buckets])
    batches = [batch for batch in np.split(alike, range(left, len(alike), batch_size)) if len(batch)]
    return [batches[position] for position in chance.permutation(len(batches))]


def deal(batch: Indices, ranks: int, accumulation: int) -> list[list[Indices]]:
    """Split a global batch: `[rank][micro-batch]` is a list of indices, empty where there are too few.

    The batch is sorted by length, so neighbours go into the same micro-batch and every rank gets long and short ones.
    """
    micro_batches = np.array_split(batch, accumulation)
    return [[part[rank::ranks] for part in micro_batches] for rank in range(ranks)]


@dataclass(frozen=True)
class MicroBatch:
    """What a rank computes at once."""

    inputs: dict[str, torch.Tensor]
    """input_ids, attention_mask, token_type_ids: (texts, longest)."""
    targets: torch.Tensor
    """(windows, …), as `Loss.stack` makes them."""
    teacher: torch.Tensor | None
    """Its outputs, as `TeacherLoss.stack` makes them."""
    weight: float
    """1, or 0 for a window computed only because the other ranks wait for this one."""

    def pinned(self) -> "MicroBatch":
        """The same in memory that a GPU copies from while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on a device; from pinned memory nothing waits for the copy."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        inputs = {name: moved(tensor) for name, tensor in self.inputs.items()}
        teacher = None if self.teacher is None else moved(self.teacher)
        return MicroBatch(inputs, moved(self.targets), teacher, self.weight)


@dataclass(frozen=True)
class Batch:
    """What an optimizer step sees: this rank's micro-batches, and the figures of all ranks'."""

    micro_batches: list[MicroBatch]
    normalizers: Normalizers
    """What the summed losses are divided by."""
    tokens: int
    """Real ones."""
    computed_tokens: int
    """With padding."""


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

    def ahead(self, step: int, pin: bool) -> Iterator[Batch]:
        """The batches from a step on to the last, each built in a thread while the one before it is computed.

        Args:
            step: the first, counted from 0.
            pin: whether they are to be copied to a GPU.
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
        """As many texts as a rank computes at once, the longest of all: none takes more memory."""
        count = micro_batch_size(self._training, self._ranks)
        return self._micro_batch(np.argsort(self._lengths, kind="stable")[-count:], counts=True)

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
