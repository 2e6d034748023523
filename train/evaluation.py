"""Scoring a model on held-out texts, on all ranks: each computes its share, and every rank gets the whole answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn
from torch.nn import functional

from bertline.tasks import text_classification
from bertline.tasks.text_classification import Example
from bertline.tasks.tokens import Encoded, Tokenizer, by_length
from bertline.train import model as models
from bertline.train import ranks
from bertline.train.progress import Progress


@dataclass(frozen=True)
class Split:
    """Encoded texts and the indices of their labels."""

    name: str
    encoded: list[Encoded]
    gold: list[int]


def encode(name: str, examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer) -> Split:
    """A split as the model reads it."""
    encoded = tokenizer.encode([example.texts for example in examples])
    return Split(name, encoded, [labels.index(example.label) for example in examples])


def evaluate(
    model: nn.Module,
    split: Split,
    labels: Sequence[str],
    tokenizer: Tokenizer,
    batch_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """The task's scores of a classifier (or its engine) on a split, and the mean cross-entropy as `loss`.

    Args:
        model: left in evaluation mode.
        split: what to score on.
        labels: names by index.
        tokenizer: pads the batches.
        batch_size: texts a rank computes at once.
        progress: shows how far it is.
    """
    model.eval()
    logits = _logits(model, split, len(labels), tokenizer, batch_size, progress)
    scores = text_classification.score(logits.numpy(), split.gold, labels)
    return {**scores, "loss": float(functional.cross_entropy(logits.double(), torch.tensor(split.gold)))}


@torch.inference_mode()
def _logits(
    model: nn.Module, split: Split, labels: int, tokenizer: Tokenizer, batch_size: int, progress: Progress
) -> torch.Tensor:
    """(texts, labels) in the split's order, on the CPU of every rank."""
    rank, count, device = dist.get_rank(), dist.get_world_size(), ranks.device()
    batches = by_length([len(one.input_ids) for one in split.encoded], batch_size)
    logits = torch.zeros(len(split.encoded), labels, device=device)
    rounds = range(0, len(batches), count)
    for first in progress.track(rounds, len(rounds), split.name):
        mine = batches[first + rank] if first + rank < len(batches) else None
        texts = mine or batches[first]  # a rank without any computes as well: under ZeRO 3 others need its weights
        inputs = tokenizer.pad([split.encoded[index] for index in texts])
        computed = models.logits(model, {name: torch.from_numpy(array).to(device) for name, array in inputs.items()})
        if mine is not None:
            logits[mine] = computed
    return ranks.sum_over_ranks(logits).cpu()
