"""A model's outputs for texts, computed in shares on all ranks and returned in full on each; and their mean loss."""

from collections.abc import Sequence
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
from bertline.train.losses import Loss
from bertline.train.progress import Progress


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
    rank, count, device = dist.get_rank(), dist.get_world_size(), ranks.device()
    lengths = [len(window.input_ids) for window in windows]
    batches = by_length(lengths, batch_size)
    gathered: torch.Tensor | None = None  # in the order of the batches
    asks: ranks.Figures | None = None
    rounds = range(0, len(batches), count)
    for first in progress.track(rounds, len(rounds), name):
        watchdog.beat(f"{name}, round {first // count + 1}")
        if asks is not None and any(asks.read()):
            raise PreemptedError(f"{name}: stopped as asked in round {first // count + 1} of {len(rounds)}")
        asked = torch.full((1,), float(stoppable and preemption.asked.is_set()), device=device)
        asks = ranks.Figures(ranks.sum_over_ranks(asked))
        mine = batches[first + rank] if first + rank < len(batches) else None
        some = mine or batches[first]  # an idle rank computes too: under ZeRO 3 the others need its weights
        inputs = tokenizer.pad([windows[index] for index in some])
        computed = pytorch.outputs(model, {name: _moved(array, device) for name, array in inputs.items()})
        if gathered is None:  # the longest windows come first
            per_token = (max(lengths),) if computed.ndim == 3 else ()
            gathered = torch.zeros(len(lengths), *per_token, computed.shape[-1], device=device)
        if mine is None:
            continue
        place = gathered[(first + rank) * batch_size :][: len(mine)]
        if computed.ndim == 3:
            place[:, : computed.shape[1]] = computed
        else:
            place[:] = computed
    assert gathered is not None, "at least one window"
    whole = ranks.sum_over_ranks(gathered).cpu().numpy()
    found = dict(zip(chain.from_iterable(batches), whole, strict=True))
    return [found[index][:length] if whole.ndim == 3 else found[index] for index, length in enumerate(lengths)]


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
