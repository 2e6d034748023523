"""A student cut from a larger model: a model folder with less in it, made once and kept beside the prepared data.

What is cut is a folder, not a model in memory, so that what trains is what anyone reads from the folder afterwards.
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
from bertline.tasks.task import Task
from bertline.train.cache import make_once, place
from bertline.train.data.prepared import Prepared
from bertline.train.distillation import pruning
from bertline.train.losses import Loss

LAYER = re.compile(r"(?P<before>.*?\blayers?\.)(?P<number>\d+)(?P<after>\..+)")
"""The name of a layer's tensor: families differ in what stands before the number and after it."""

CODE = (
    "models/pytorch.py",
    "train/losses.py",
    "train/model.py",
    "train/distillation/pruning.py",
    "train/distillation/student.py",
)
PACKAGES = ("torch", "transformers", "safetensors")
"""Those that a student depends on, beside our own code."""


def cut(folder: Path, student: Student, cache: Path) -> Path:
    """A model folder with the layers that a student keeps, made in `cache` if it is not there; no tokenizer in it.

    Raises:
        InputError: as `encoder.check`; the layers cannot be told apart, or would compute otherwise in another place; or
            there is no room to write.
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

    return make_once(place(cache, "student", made_of, CODE, PACKAGES), fill)


def prune(folder: Path, recipe: Recipe, ready: Prepared, tokenizer: Path, cache: Path) -> Path:
    """A model folder without the heads and units that a student does not keep, made in `cache` if it is not there.

    Args:
        folder: of a model with a trained head.
        recipe: of the student.
        ready: the texts that tell what matters.
        tokenizer: folder of the model's.
        cache: where it is kept.

    Raises:
        InputError: as `pruning.prune`; the model has no trained head, or one for other labels; or there is no room to
            write.
    """
    task = ready.splits.task
    made_of = {
        "weights": encoder.weights_sha256(folder),
        "config": encoder.check(folder),
        "labels": recipe.data.label_names,  # by which a head without names is known
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

    return make_once(place(cache, "student", made_of, CODE, PACKAGES), fill)


def spread(count: int, config: dict[str, Any]) -> list[int]:
    """`count` of a model's layers, evenly from all over, the first among them; such as `cut` takes.

    Where kinds of layers take turns, it is runs of these turns that are kept.
    """
    turn = _turn(config)
    runs, kept = -(-encoder.layers(config) // turn), -(-count // turn)
    first = [number * runs // kept * turn for number in range(kept)]
    return [first[number // turn] + number % turn for number in range(count)]


def _check_labels(recipe: Recipe, folder: Path, task: Task) -> None:
    """Refuse a head with other labels, or the same in another order: what matters is measured by its outputs.

    Outputs that have no names of their own are called as the recipe calls them.
    """
    theirs = encoder.label_names(encoder.check(folder))
    if task.settings.problem_type == "regression" and len(theirs) == 1:  # whatever it is called
        return
    nameless = theirs == [f"LABEL_{number}" for number in range(len(task.labels))]
    if task.labels and theirs != task.labels and not (nameless and recipe.data.label_names):
        learnt = f"{recipe.model} has labels {theirs!r}; the student is to learn {task.labels!r}"
        advice = "name data.labels in its order, or a model that was trained for these labels"
        raise InputError(f"model: {learnt}: {advice}")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in encoder.weight_files(folder) for name, tensor in load_file(path).items()}


def _renumbered(
    tensors: dict[str, torch.Tensor], kept: list[int], layers: int, folder: Path
) -> dict[str, torch.Tensor]:
    """The tensors without those of other layers; the layers that are kept are counted anew."""
    numbers = {int(match["number"]) for name in tensors if (match := LAYER.fullmatch(name))}
    if numbers != set(range(layers)) or kept[-1] >= layers:
        raise InputError(
            f"student.layers: {folder} has {layers} layers and weights of {len(numbers)}; a model whose layers share "
            "their weights is not cut: leave it out"
        )
    renamed = {name: _renamed(name, kept) for name in tensors}
    return {new: tensors[name].contiguous() for name, new in renamed.items() if new is not None}


def _renamed(name: str, kept: list[int]) -> str | None:
    """The name that a tensor has in the student; None where it is not of it."""
    match = LAYER.fullmatch(name)
    if match is None:
        return name
    number = int(match["number"])
    return f"{match['before']}{kept.index(number)}{match['after']}" if number in kept else None


def _turn(config: dict[str, Any]) -> int:
    """After how many layers their kinds repeat."""
    return int(config.get("global_attn_every_n_layers", 3)) if config["model_type"] == "modernbert" else 1


def _check_places(config: dict[str, Any], kept: list[int]) -> None:
    """Refuse to move a layer of ModernBERT to where transformers would take it for one of another kind.

    By its number one in several attends to the whole text, and the first alone has no norm before it.
    """
    if config["model_type"] != "modernbert":
        return
    every = _turn(config)
    if kept[0] != 0 or any((old % every == 0) != (new % every == 0) for new, old in enumerate(kept)):
        raise InputError(
            f"student.layers: found {kept}; of modernbert layers 0, {every}, {2 * every}, … attend to the whole text, "
            f"in a student too: keep layer 0, then {every - 1} that do not, then one that does, and so on"
        )


def _with_layers(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    changed: dict[str, Any] = {key: len(kept) for key in encoder.LAYERS if key in config}
    if pruned := config.get("pruned_heads"):
        changed["pruned_heads"] = {str(new): pruned[str(old)] for new, old in enumerate(kept) if str(old) in pruned}
    if "layer_types" in config:  # what each layer attends to; transformers tells it from the rest where it is absent
        config = {key: value for key, value in config.items() if key != "layer_types"}
    return {**config, **changed}
