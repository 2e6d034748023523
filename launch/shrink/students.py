"""The students of a model that are tried: what each keeps of it, and its name."""

from pathlib import Path
from typing import Any

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Student
from bertline.artifacts.run import RunFolder
from bertline.launch.shrink.results import Tried

SIXTHS = (4, 3, 2, 1)
"""The sizes that are tried, in sixths of the model's layers."""


def sizes(config: dict[str, Any]) -> list[Student]:
    """The students to try: four to one sixths of the layers, the largest first.

    Its layers are spread over the model. Each smaller one lacks the top layers of the one before it: three layers of
    four were better without the top one than without one in the middle (docs/benchmarks.md), as are models that are
    fine-tuned with fewer layers (arXiv:2004.03844).

    Raises:
        InputError: the model has a single layer, an unknown number of layers, or layers that share their weights.
    """
    from bertline.train.distillation.student import spread  # imports torch

    if config["model_type"] == "albert":
        raise InputError("albert: its layers share their weights, so that none can be removed; train another model")
    layers = encoder.layers(config)
    counts = {max(1, round(layers * part / 6)) for part in SIXTHS} & set(range(1, layers))
    if not counts:
        raise InputError(f"{config['model_type']} with {layers} layers: there are none to remove")
    kept = spread(max(counts), config)
    return [Student(layers=kept[:count]) for count in sorted(counts, reverse=True)]


def halved(tried: Tried) -> Student | None:
    """A student with half the attention heads and feed-forward units per layer; None if they cannot be pruned."""
    from bertline.train.distillation import pruning

    config = encoder.check(RunFolder(Path(tried.run)).best)
    if config["model_type"] not in pruning.FAMILIES or config.get("pruned_heads"):
        return None
    heads = config.get("num_attention_heads") or config["n_heads"]
    units = next(config[key] for key in pruning.SIZES if key in config)
    return Student(**tried.kept | {"attention_heads": max(1, heads // 2), "intermediate_size": units // 2})


def named(kept: Student) -> str:
    """The name of a student, by its number of layers and whether they are pruned."""
    count = len(kept.layers or ())
    return f"{count} layer{'s' if count > 1 else ''}{', halved' if kept.is_pruned else ''}"
