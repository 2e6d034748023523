"""Structured pruning: removes the least important attention heads and feed-forward units from a trained model.

A part's importance is measured on labelled training texts: the mean over windows of |output × gradient of the loss|, a
first-order estimate of how much the loss would change if the part's output were 0 (for heads arXiv:1905.10650, section
4.1; for units arXiv:1611.06440, section 2.2). All layers keep the same number, so that config.json can express it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Student
from bertline.artifacts.sequences import evenly_spaced
from bertline.models import pytorch
from bertline.tasks.tokens import Tokenizer
from bertline.train import model as models
from bertline.train.data.prepared import Tokenized
from bertline.train.losses import Loss

FAMILIES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Model types whose heads transformers can remove permanently, recording it in config.json."""
ATTENTION = ("attention.output.dense", "attention.out_lin")
"""The module that combines a layer's heads."""
FEED_FORWARD = (("intermediate.dense", "output.dense"), ("ffn.lin1", "ffn.lin2"))
"""The modules that compute a layer's units and that combine them."""
SIZES = ("intermediate_size", "hidden_dim")
"""The keys of config.json for the number of units."""
WINDOWS, AT_ONCE = 512, 16
"""Windows that importance is measured on, in total and per batch."""


class Layer(NamedTuple):
    """The modules that hold a layer's heads and units."""

    joins_heads: nn.Linear
    makes_units: nn.Linear
    joins_units: nn.Linear


class Importance(NamedTuple):
    """The importance of each part, by layer."""

    heads: torch.Tensor
    """(layers, heads)."""
    units: torch.Tensor
    """(layers, units)."""


def prune(model: nn.Module, student: Student, split: Tokenized, loss: Loss, tokenizer: Tokenizer) -> None:
    """Remove all but the most important heads and units from a trained model, in place.

    Args:
        model: a model with a trained head, on the CPU.
        student: how many heads and units per layer are kept.
        split: training texts, the labelled ones first.
        loss: the loss against labels.
        tokenizer: pads the batches.

    Raises:
        InputError: models of its type cannot be pruned, it has fewer parts, or its heads were pruned before.
    """
    config = cast(Any, model.config)
    if config.model_type not in FAMILIES:
        raise InputError(f"student: models of type {config.model_type} cannot be pruned; {', '.join(FAMILIES)} can")
    if student.attention_heads is not None and config.pruned_heads:  # their importance cannot be measured
        raise InputError("student.attention_heads: heads of this model were pruned before; leave it out")
    found = measure(model, split, loss, tokenizer)
    if student.intermediate_size is not None:
        _check("intermediate_size", student.intermediate_size, found.units.shape[1])
        for layer, importance in zip(_layers(model), found.units, strict=True):
            _keep_units(layer, _top(importance, student.intermediate_size))
        for key in SIZES:
            if key in config.to_dict():
                setattr(config, key, student.intermediate_size)
    if student.attention_heads is not None:
        _check("attention_heads", student.attention_heads, found.heads.shape[1])
        everything = set(range(found.heads.shape[1]))
        kept = {number: set(_top(row, student.attention_heads).tolist()) for number, row in enumerate(found.heads)}
        model.prune_heads({number: sorted(everything - own) for number, own in kept.items()})  # type: ignore[operator]


def measure(model: nn.Module, split: Tokenized, loss: Loss, tokenizer: Tokenizer) -> Importance:
    """Measure the importance of each head and unit for the loss on evenly spaced labelled texts.

    If heads were pruned before, only units are measured and all heads get 0, because config.json does not say how many
    heads each layer has left.
    """
    labelled = [i for i, window in enumerate(split.windows) if window.text < len(split.examples)]
    chosen = evenly_spaced(labelled, WINDOWS)
    config = cast(Any, model.config)
    layers, heads = _layers(model), int(config.num_attention_heads)
    sums = [[torch.zeros(heads), torch.zeros(layer.joins_units.in_features)] for layer in layers]
    model.eval()
    for first in range(0, len(chosen), AT_ONCE):
        some = chosen[first : first + AT_ONCE]
        inputs = tokenizer.pad([split.windows[index] for index in some])
        targets = loss.stack([split.windows.targets[index] for index in some], inputs["input_ids"].shape[1])
        with _recorded([part for layer in layers for part in (layer.joins_heads, layer.joins_units)]) as seen:
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            loss.sum(pytorch.outputs(model, tensors), targets, tensors["attention_mask"]).backward()  # type: ignore[no-untyped-call]
        for layer, total in zip(layers, sums, strict=True):
            if not config.pruned_heads:
                by_feature = _change(seen[layer.joins_heads])
                total[0] += by_feature.reshape(len(by_feature), heads, -1).sum(2).abs().sum(0)
            total[1] += _change(seen[layer.joins_units]).abs().sum(0)
        model.zero_grad(set_to_none=True)
    return Importance(*(torch.stack([total[kind] for total in sums]) / len(chosen) for kind in (0, 1)))


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Record the inputs of modules while the block runs; after a backward pass they have gradients."""
    seen: dict[nn.Module, torch.Tensor] = {}

    def record(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        arguments[0].retain_grad()
        seen[module] = arguments[0]

    hooks = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _change(values: torch.Tensor) -> torch.Tensor:
    """(windows, features): how much removing each feature of (windows, tokens, features) would change the loss."""
    assert values.grad is not None
    return (values * values.grad).sum(dim=1).detach()


def _layers(model: nn.Module) -> list[Layer]:
    """The relevant modules of each layer, whose names depend on the family."""
    found = []
    for layer in models.layers(model):
        modules = dict(layer.named_modules())
        joins = next(modules[name] for name in ATTENTION if name in modules)
        makes, units = next(pair for pair in FEED_FORWARD if pair[0] in modules)
        found.append(Layer(*(cast(nn.Linear, one) for one in (joins, modules[makes], modules[units]))))
    return found


def _keep_units(layer: Layer, kept: torch.Tensor) -> None:
    makes, joins = layer.makes_units, layer.joins_units
    makes.weight, makes.bias = (nn.Parameter(each.detach()[kept].clone()) for each in (makes.weight, makes.bias))
    joins.weight = nn.Parameter(joins.weight.detach()[:, kept].clone())
    makes.out_features = joins.in_features = len(kept)


def _top(importance: torch.Tensor, count: int) -> torch.Tensor:
    """The sorted indices of the `count` most important parts."""
    return importance.topk(count).indices.sort().values


def _check(key: str, kept: int, most: int) -> None:
    if kept > most:
        raise InputError(f"student.{key}: found {kept}; the model has {most}")
