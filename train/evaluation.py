"""A model's outputs for texts, computed in shares on all ranks and returned in full on each; and their mean loss."""

from collections.abc import Iterator, Sequence
from itertools import chain

import deepspeed.comm as dist
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bertline.artifacts.errors import PreemptedError
from bertline.models import pytorch
from bertline.tasks.task import Output, Target
from bertline.tasks.tokens import Encoded, Tokenizer, by_length
from bertline.train import preemption, ranks, watchdog
from bertline.train.data.mapped import Windows
from bertline.train.losses import Loss
from bertline.train.progress import Progress

TOGETHER = 64
"""Rounds whose outputs are gathered together and leave the device: those of a whole split could fill it."""


@torch.no_grad()  # not inference_mode: the next step may use parameters that ZeRO 3 gathers here
def outputs(
    model: nn.Module,
    windows: Sequence[Encoded],
    name: str,
    tokenizer: Tokenizer,
    batch_size: int,
    progress: Progress,
    stoppable: bool = False,
) -> list[Output]:
    """The model's output for each window, on every rank.

    Args:
        model: a model or its engine; left in evaluation mode.
        windows: at least one.
        name: what the windows are, for progress and messages.
        tokenizer: pads the batches.
        batch_size: windows that a rank computes at once.
        progress: shows the rounds done.
        stoppable: whether to stop early if a rank is asked to.

    Returns:
        (labels,) for each window, or (tokens, channels) without padding.

    Raises:
        PreemptedError: on all ranks, one round after any rank was asked to stop, if `stoppable`.
    """
    model.eval()
    rank, count = dist.get_rank(), dist.get_world_size()
    lengths = windows.lengths.tolist() if isinstance(windows, Windows) else [len(one.input_ids) for one in windows]
    batches = by_length(lengths, batch_size)
    found: dict[int, Output] = {}
    gathered: torch.Tensor | None = None  # the outputs of `held`, in its order
    start, held = 0, batches[:0]
    for first, computed in _rounds(model, windows, batches, name, tokenizer, progress, stoppable):
        if gathered is None:
            start, held = first, batches[first : first + TOGETHER * count]
            per_token = (lengths[held[0][0]],) if computed.ndim == 3 else ()  # the longest windows come first
            gathered = torch.zeros(sum(map(len, held)), *per_token, computed.shape[-1], device=ranks.device())
        own = gathered[(first - start + rank) * batch_size :][: len(computed)]  # empty for an idle rank
        own = own[:, : computed.shape[1]] if computed.ndim == 3 else own
        own[:] = computed[: len(own)]
        if first + count >= start + len(held):
            whole = ranks.sum_over_ranks(gathered).cpu().numpy()
            found.update(zip(chain.from_iterable(held), whole, strict=True))
            gathered = None
    is_padded = found[0].ndim == 2
    return [found[index][:length] if is_padded else found[index] for index, length in enumerate(lengths)]


def _rounds(
    model: nn.Module,
    windows: Sequence[Encoded],
    batches: Sequence[Sequence[int]],
    name: str,
    tokenizer: Tokenizer,
    progress: Progress,
    stoppable: bool,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield, for each round, the index of rank 0's batch and what this rank has computed for its own."""
    rank, count, device = dist.get_rank(), dist.get_world_size(), ranks.device()
    asks: ranks.Figures | None = None
    rounds = range(0, len(batches), count)
    for first in progress.track(rounds, len(rounds), name):
        watchdog.beat(f"{name}, round {first // count + 1}")
        if asks is not None and any(asks.read()):
            raise PreemptedError(f"{name}: stopped as asked in round {first // count + 1} of {len(rounds)}")
        asked = torch.full((1,), float(stoppable and preemption.asked.is_set()), device=device)
        asks = ranks.Figures(ranks.sum_over_ranks(asked))
        # an idle rank computes the first batch too: under ZeRO 3 the others need its weights
        some = batches[first + rank] if first + rank < len(batches) else batches[first]
        inputs = tokenizer.pad([windows[index] for index in some])
        yield first, pytorch.outputs(model, {name: _moved(array, device) for name, array in inputs.items()})


def mean_loss(loss: Loss, targets: Sequence[Target], computed: Sequence[Output]) -> float:
    """The mean loss of the windows of a split, over all their targets."""
    total = 0.0
    for target, output in zip(targets, computed, strict=True):
        stacked = loss.stack([target], len(output))
        total += float(loss.sum(torch.from_numpy(output[None]), stacked, torch.ones(1, len(output))))
    return total / max(sum(map(loss.terms, targets)), 1.0)


def _moved(array: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """The array on a device; to a GPU it is copied asynchronously."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
