"""`bertline gather`: writes the model of a DeepSpeed checkpoint as a Hugging Face folder.

config.json describes the model, and the checkpoint must have exactly its weights. They are written as fp32 safetensors,
beside the tokenizer.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from bertline.artifacts import encoder, files, places
from bertline.artifacts.checkpoint import INDEX, verify_files
from bertline.artifacts.errors import InputError
from bertline.export.gathering import checkpoint, shards
from bertline.export.gathering.shards import Weights
from bertline.export.quiet import quiet

SHOWN = 3
"""The most names of each kind that an error lists."""


def gather(place: Path, output: Path, model: str | None = None, trust: bool = False) -> dict[str, Any]:
    """Write the model that a checkpoint holds.

    Args:
        place: a DeepSpeed checkpoint, or a folder above one.
        output: the folder to make.
        model: the place of a folder with the trained model's config.json and tokenizer; None for those beside the
            checkpoint.
        trust: whether the checkpoint's pickles may run code.

    Returns:
        What `bertline gather --json` prints.

    Raises:
        InputError: `output` exists, there is no checkpoint or more than one, loading it would run code, or it is a
            checkpoint of another model.
        DamagedError: a file differs from what was written.
    """
    files.refuse_existing(output)
    folder = checkpoint.choose(place)
    settings = _settings(folder, model)
    if (folder.parent / INDEX).is_file():  # a run's
        verify_files(folder.parent)
    with quiet():
        built = _build(settings)
        weights = shards.read(folder, trust)
        _fill(built, weights, folder, settings)
        with files.new_folder(output) as made:
            built.save_pretrained(made, safe_serialization=True)
            encoder.copy_tokenizer(settings, made)
    return {
        "model": str(output),
        "checkpoint": str(folder),
        "zero_stage": weights.zero_stage,
        "ranks": weights.ranks,
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "weights_sha256": encoder.weights_sha256(output),
    }


def _settings(folder: Path, model: str | None) -> Path:
    """The folder with config.json and the tokenizer."""
    if model is not None:
        return places.model_folder(model, weights=False)
    beside = checkpoint.model_beside(folder)
    if beside is None:
        raise InputError(f"{folder}: no config.json beside it; name the folder with the model's: --model MODEL")
    return beside


def _build(folder: Path) -> Any:
    """The model that config.json describes, with random weights."""
    architectures = encoder.architectures(encoder.check(folder, weights=False))
    kind = getattr(transformers, architectures[0], None) if architectures else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise InputError(f"{folder / 'config.json'}: architectures is {architectures}, not a model of transformers")
    try:
        return kind(transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{folder / 'config.json'}: {architectures[0]} cannot be built from it ({error})") from error


def _fill(model: nn.Module, weights: Weights, folder: Path, settings: Path) -> None:
    """Load weights into a model; InputError if they are not exactly the model's own."""
    wanted = model.state_dict()
    found = {name: tensor for name, tensor in weights.tensors.items() if name in wanted or name not in weights.buffers}
    other = [
        f"{name} {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}"
        for name, tensor in found.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    kinds = {
        "lacks weights that the model has": [name for name in wanted if name not in found],
        "has weights that the model lacks": [name for name in found if name not in wanted],
        "has weights of another shape": other,
    }
    faults = [f"{folder}: {what}: {_few(names)}" for what, names in kinds.items() if names]
    if faults:
        raise InputError(
            *faults, f"{settings / 'config.json'}: describes another model; name the trained one: --model MODEL"
        )
    with torch.no_grad():
        model.load_state_dict(found)


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{rest}"
