"""Scoring a model on held-out texts, on all ranks: each computes its share, and every rank gets the whole answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn

from bertline.tasks.task import Example, Output, Task
from bertline.tasks.tokens import Tokenizer, by_length
from bertline.train import model as models
from bertline.train import ranks, watchdog
from bertline.train.losses import Loss
from bertline.train.mapped import Windows
from bertline.train.progress import Progress


@dataclass(frozen=True)
class Split:
    """Labelled texts as the model reads them: a window each, or several of a long one."""

    name: str
    examples: Sequence[Example]
    windows: Windows


def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    tokenizer: Tokenizer,
    loss: Loss,
    batch_size: int,
    progress: Progress,
    tune: bool,
) -> tuple[dict[str, Any], Task]:
    """The task's scores of a model (or its engine) on a split, and the mean loss as `loss`.

    Args:
        model: left in evaluation mode.
        split: what to score on.
        task: decides.
        tokenizer: pads the batches.
        loss: the one that is trained.
        batch_size: windows a rank computes at once.
        progress: shows how far it is.
        tune: whether thresholds are set by this split first.

    Returns:
        The scores, and the task as it decided.
    """
    model.eval()
    outputs, mean = _outputs(model, split, task, tokenizer, loss, batch_size, progress)
    if tune:
        task = task.with_decision(task.tune(split.examples, split.windows, outputs))
    answers = task.decode([example.texts for example in split.examples], split.windows, outputs)
    return {**task.score(split.examples, answers), "loss": mean}, task


@torch.inference_mode()
def _outputs(
    model: nn.Module,
    split: Split,
    task: Task,
    tokenizer: Tokenizer,
    loss: Loss,
    batch_size: int,
    progress: Progress,
) -> tuple[list[Output], float]:
    """What the model gives for each window, and the mean loss, on every rank."""
    rank, count, device = dist.get_rank(), dist.get_world_size(), ranks.device()
    lengths = split.windows.lengths.tolist()
    batches = by_length(lengths, batch_size)
    gathered: torch.Tensor | None = None
    total = torch.zeros((), device=device)
    rounds = range(0, len(batches), count)
    for first in progress.track(rounds, len(rounds), split.name):
        watchdog.beat(f"{split.name}, round {first // count + 1}")
        mine = batches[first + rank] if first + rank < len(batches) else None
        windows = mine or batches[first]  # a rank without any computes as well: under ZeRO 3 others need its weights
        inputs = tokenizer.pad([split.windows[index] for index in windows])
        computed = models.outputs(model, {name: torch.from_numpy(array).to(device) for name, array in inputs.items()})
        if gathered is None:  # the longest windows come first
            per_token = (max(lengths),) if computed.ndim == 3 else ()
            gathered = torch.zeros(len(lengths), *per_token, computed.shape[-1], device=device)
        if mine is not None:
            targets = loss.stack([split.windows.targets[index] for index in mine], inputs["input_ids"].shape[1])
            total += loss.sum(computed, targets.to(device))
            if computed.ndim == 3:
                gathered[mine, : computed.shape[1]] = computed
            else:
                gathered[mine] = computed
    assert gathered is not None, "a split has examples"
    whole = ranks.sum_over_ranks(gathered).cpu().numpy()
    mean = float(ranks.sum_over_ranks(total)) / max(sum(map(loss.terms, split.windows.targets)), 1.0)
    return [row[:length] if row.ndim == 2 else row for row, length in zip(whole, lengths, strict=True)], mean
