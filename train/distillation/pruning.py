"""Structured pruning: the attention heads and feed-forward units that matter least are taken out of a trained model.

How much a part matters is measured on labelled training texts: the mean over windows of |output × gradient of the
loss|, a first-order estimate of what the loss would change by, did the part give nothing (of heads arXiv:1905.10650,
section 4.1; of units arXiv:1611.06440, section 2.2). Of every layer as many are kept, so that config.json can say it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Student
from bertline.artifacts.tables import from_all_over
from bertline.models import pytorch
from bertline.tasks.tokens import Tokenizer
from bertline.train import model as models
from bertline.train.data.prepared import Tokenized
from bertline.train.losses import Loss

FAMILIES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Whose heads transformers can take out, for good: config.json tells of it."""
ATTENTION = ("attention.output.dense", "attention.out_lin")
"""What heads are joined by, in a layer."""
FEED_FORWARD = (("intermediate.dense", "output.dense"), ("ffn.lin1", "ffn.lin2"))
"""What makes units, and what they are joined by."""
SIZES = ("intermediate_size", "hidden_dim")
"""What config.json calls the number of units."""
WINDOWS, AT_ONCE = 512, 16
"""What parts are measured on."""


class Layer(NamedTuple):
    """What a layer's parts are in."""

    joins_heads: nn.Linear
    makes_units: nn.Linear
    joins_units: nn.Linear


class Importance(NamedTuple):
    """By layer, how much each part matters."""

    heads: torch.Tensor
    """(layers, heads)."""
    units: torch.Tensor
    """(layers, units)."""


def prune(model: nn.Module, student: Student, split: Tokenized, loss: Loss, tokenizer: Tokenizer) -> None:
    """Take out of a trained model all but the heads and units that a student keeps.

    Args:
        model: with a trained head, on the CPU; it is changed.
        student: how many are kept.
        split: training texts, the labelled ones first.
        loss: of labels.
        tokenizer: pads the batches.

    Raises:
        InputError: the family of the model is not known to be pruned, or has fewer; or heads were taken out before.
    """
    config = cast(Any, model.config)
    if config.model_type not in FAMILIES:
        raise InputError(f"student: a model of type {config.model_type} is not pruned; {', '.join(FAMILIES)} are")
    if student.attention_heads is not None and config.pruned_heads:  # they cannot be measured
        raise InputError("student.attention_heads: heads of this model were taken out before; leave it out")
    found = measure(model, split, loss, tokenizer)
    if student.intermediate_size is not None:
        _check("intermediate_size", student.intermediate_size, found.units.shape[1])
        for layer, matter in zip(_layers(model), found.units, strict=True):
            _keep_units(layer, _most(matter, student.intermediate_size))
        for key in SIZES:
            if key in config.to_dict():
                setattr(config, key, student.intermediate_size)
    if student.attention_heads is not None:
        _check("attention_heads", student.attention_heads, found.heads.shape[1])
        everything = set(range(found.heads.shape[1]))
        kept = {number: set(_most(row, student.attention_heads).tolist()) for number, row in enumerate(found.heads)}
        model.prune_heads({number: sorted(everything - own) for number, own in kept.items()})  # type: ignore[operator]


def measure(model: nn.Module, split: Tokenized, loss: Loss, tokenizer: Tokenizer) -> Importance:
    """How much each head and unit matters to the loss of labelled texts, evenly from all over.

    Of a model whose heads were taken out before only units are measured, and heads are all 0: how many a layer has
    left, its configuration does not tell.
    """
    labelled = [i for i, window in enumerate(split.windows) if window.text < len(split.examples)]
    chosen = from_all_over(labelled, WINDOWS)
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
                of_heads = _change(seen[layer.joins_heads])
                total[0] += of_heads.reshape(len(of_heads), heads, -1).sum(2).abs().sum(0)
            total[1] += _change(seen[layer.joins_units]).abs().sum(0)
        model.zero_grad(set_to_none=True)
    return Importance(*(torch.stack([total[kind] for total in sums]) / len(chosen) for kind in (0, 1)))


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """What goes into modules, with its gradients once they are known."""
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
    """(windows, features) by how much the loss would change without each feature of (windows, tokens, features)."""
    assert values.grad is not None
    return (values * values.grad).sum(dim=1).detach()


def _layers(model: nn.Module) -> list[Layer]:
    """The parts of each layer, by the names that the families have for them."""
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


def _most(matter: torch.Tensor, count: int) -> torch.Tensor:
    """Which parts matter most, in their order."""
    return matter.topk(count).indices.sort().values


def _check(key: str, kept: int, most: int) -> None:
    if kept > most:
        raise InputError(f"student.{key}: found {kept}; the model has {most}")
