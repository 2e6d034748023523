"""Students cut from larger models: model folders with fewer parts, made once and cached beside the prepared data.

Cutting writes a folder instead of changing a model in memory, so a run trains exactly what the folder holds.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bertline.artifacts import encoder, files
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Recipe, Student
from bertline.models import pytorch
from bertline.tasks import heads
from bertline.tasks.task import Task
from bertline.train.cache import make_once, place
from bertline.train.data.prepared import Prepared
from bertline.train.distillation import pruning
from bertline.train.losses import Loss

LAYER = re.compile(r"(?P<before>.*?\blayers?\.)(?P<number>\d+)(?P<after>\..+)")
"""The name of a layer's tensor; what precedes and follows the number depends on the family."""


def cut(folder: Path, student: Student, cache: Path) -> Path:
    """Return a model folder with the layers that a student keeps, made in `cache` if needed, without a tokenizer.

    Raises:
        InputError: as `encoder.check`; layers share weights, or would compute differently under their new numbers; or
            the disk is full.
    """
    kept = student.layers
    assert kept is not None
    config = encoder.check(folder)
    _check_places(config, kept)
    made_of = {"weights": encoder.weights_sha256(folder), "config": config, "layers": kept}

    def fill(temporary: Path) -> None:
        tensors = _renumbered(_tensors(folder), kept, encoder.layers(config), folder)
        files.write_json(temporary / "config.json", _with_layers(config, kept))
        save_file(tensors, temporary / "model.safetensors", {"format": "pt"})

    return make_once(place(cache, "student", made_of), fill)


def prune(folder: Path, recipe: Recipe, ready: Prepared, tokenizer: Path, cache: Path) -> Path:
    """Return a model folder without the heads and units that a student drops, made in `cache` if needed.

    Args:
        folder: a model with a trained head.
        recipe: the student's recipe.
        ready: the data on which importance is measured.
        tokenizer: folder of the model's tokenizer.
        cache: where the student is kept.

    Raises:
        InputError: as `pruning.prune`; the model has no trained head, or one for other labels; or the disk is full.
    """
    task = ready.splits.task
    made_of = {
        "weights": encoder.weights_sha256(folder),
        "config": encoder.check(folder),
        "labels": recipe.data.label_names,  # they name the outputs of a head without label names
        "kept": recipe.student.model_dump(),
        "texts": ready.splits.fingerprint,
        "settings": task.settings.model_dump(mode="json"),
        "loss": recipe.training.model_dump(mode="json", include={"class_weights", "label_smoothing"}),
        "tokenizer": files.sha256(tokenizer / "tokenizer.json"),
    }

    def fill(temporary: Path) -> None:
        whole = pytorch.load(folder, task.architecture)
        _check_labels(recipe, folder, task)
        loss = Loss(task.settings, recipe.training, ready.train.windows.targets)
        pruning.prune(whole, recipe.student, ready.train, loss, task.tokenizer(tokenizer))
        whole.save_pretrained(temporary, safe_serialization=True)  # type: ignore[operator]

    return make_once(place(cache, "student", made_of), fill)


def spread(count: int, config: dict[str, Any]) -> list[int]:
    """Choose `count` evenly spaced layers of a model, from the first to the last, as `cut` takes them.

    Where kinds of layers alternate, whole periods of the pattern are kept, and the last one may lack its last layers.
    """
    period = _period(config)
    whole = (count - 1) // period
    left = count - whole * period  # layers of the last period that are kept: it must have as many
    last = (encoder.layers(config) - left) // period
    first = [round(number * last / max(whole, 1)) * period for number in range(whole + 1)]
    return [first[number // period] + number % period for number in range(count)]


def _check_labels(recipe: Recipe, folder: Path, task: Task) -> None:
    """Reject a head with other labels, or with the same in another order: importance is measured on its outputs.

    Outputs without names of their own take the recipe's names, in its order; labels found in the data name none.
    """
    known = task.indexed(recipe.data.label_names or task.find_labels([]))  # a regression has one without any data
    theirs = heads.settings(encoder.check(folder), task.settings.model_copy(update={"labels": known})).labels
    if theirs != task.labels:
        learned = f"{recipe.model} has labels {theirs!r}; the student is to learn {task.labels!r}"
        advice = "list data.labels in the model's order, or name a model trained for these labels in this order"
        raise InputError(f"model: {learned}: {advice}")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in encoder.weight_files(folder) for name, tensor in load_file(path).items()}


def _renumbered(
    tensors: dict[str, torch.Tensor], kept: list[int], layers: int, folder: Path
) -> dict[str, torch.Tensor]:
    """The tensors of the kept layers, which are renumbered, and those outside any layer."""
    numbers = {int(match["number"]) for name in tensors if (match := LAYER.fullmatch(name))}
    if numbers != set(range(layers)) or kept[-1] >= layers:
        raise InputError(
            f"student.layers: {folder} has {layers} layers, but weights for {len(numbers)}; a model whose layers share "
            "weights cannot be cut; leave it out"
        )
    renamed = {name: _renamed(name, kept) for name in tensors}
    return {new: tensors[name].contiguous() for name, new in renamed.items() if new is not None}


def _renamed(name: str, kept: list[int]) -> str | None:
    """The name that a tensor has in the student; None if the student does not have it."""
    match = LAYER.fullmatch(name)
    if match is None:
        return name
    number = int(match["number"])
    return f"{match['before']}{kept.index(number)}{match['after']}" if number in kept else None


def _period(config: dict[str, Any]) -> int:
    """The number of layers after which their kinds repeat."""
    return int(config.get("global_attn_every_n_layers", 3)) if config["model_type"] == "modernbert" else 1


def _check_places(config: dict[str, Any], kept: list[int]) -> None:
    """Reject moving a ModernBERT layer to a number that transformers gives to another kind of layer.

    The number decides which layers attend to the whole text, and that the first has no norm before its attention.
    """
    if config["model_type"] != "modernbert":
        return
    every = _period(config)
    if kept[0] != 0 or any((old % every == 0) != (new % every == 0) for new, old in enumerate(kept)):
        raise InputError(
            f"student.layers: found {kept}; in modernbert, layers 0, {every}, {2 * every}, … attend to the whole text, "
            f"also in a student: keep layer 0, then {every - 1} that do not, then one that does, and so on"
        )


def _with_layers(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    changed: dict[str, Any] = {key: len(kept) for key in encoder.LAYERS if key in config}
    if pruned := config.get("pruned_heads"):
        changed["pruned_heads"] = {str(new): pruned[str(old)] for new, old in enumerate(kept) if str(old) in pruned}
    if "layer_types" in config:  # what each layer attends to, which transformers derives where it is absent
        config = {key: value for key, value in config.items() if key != "layer_types"}
    return {**config, **changed}
