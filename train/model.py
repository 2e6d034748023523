"""The model of a run and its optimizer: loading, freezing and parameter groups as the recipe says, and saving.

A model folder is treated as data: `encoder.check` refuses anything that could run code before it is opened here, and
weights are read and written only as safetensors.
"""

import copy
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from bertline.artifacts import encoder, files
from bertline.artifacts.errors import InputError, one_line
from bertline.artifacts.recipe_schema import Freeze, Training
from bertline.models import pytorch, tokenizer_json
from bertline.tasks.task import Task
from bertline.train import ranks
from bertline.train.cache import make_once, place
from bertline.train.deepspeed_config import Precision

ABOVE = ("pooler.", "final_norm.", "LayerNorm.", "encoder.ln.", "encoder.emb_layer_norm_after.")
"""Prefixes of encoder parameters above the layers; all others outside the layers lie below or are shared by them."""


def load(folder: Path, task: Task, training: Training) -> nn.Module:
    """Load a folder's encoder and its head for the task; a head it lacks, or of another shape, is drawn from the seed.

    Raises:
        InputError: as `pytorch.load`, or the model does not support gradient checkpointing.
    """
    encoder.check(folder)
    torch.manual_seed(training.seed)
    labels = task.labels
    settings = _dropout(folder, training.dropout)
    if labels:
        label2id = {label: index for index, label in enumerate(labels)}
        settings |= {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": label2id}
    if task.settings.task == "question-answering":
        settings["num_labels"] = 2  # start and end, whatever classes the model was trained for before
    if task.settings.problem_type:
        settings["problem_type"] = task.settings.problem_type
    model = pytorch.load(folder, task.architecture, trained=False, **settings)
    _freeze(model, training.freeze)
    if training.gradient_checkpointing:
        _checkpoint_gradients(model, folder)
    return model


def autocast(precision: Precision) -> torch.autocast:
    """A context in which a model outside of DeepSpeed's engine computes in the precision of a run."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(ranks.device().type, dtype, enabled=dtype is not None)


def optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over the parameters that are not frozen. Biases and norms, which are the vectors, have no weight decay.

    Each layer's learning rate is `layer_decay` times that of the layer above (arXiv:1801.06146, section 3.2). The head
    is above all layers; the embeddings, and what the layers share, are below. torch's fused kernel updates each tensor
    in one pass over memory.
    """
    depths = _depths(model) if training.layer_decay < 1 else {}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((depths.get(id(parameter), 0), parameter.ndim < 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if vectors else training.weight_decay,
                "lr": training.learning_rate * training.layer_decay**depth,
            }
            for (depth, vectors), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        fused=True,
    )


def schedule(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a linear or cosine decay to 0 over the rest of `steps`, or a constant rate."""
    kind = training.lr_scheduler_type
    name = "constant_with_warmup" if kind == "constant" else kind
    warmup = math.ceil(training.warmup_ratio * steps)
    made: torch.optim.lr_scheduler.LambdaLR = transformers.get_scheduler(name, optimizer, warmup, steps)
    return made


def keep_tokenizer(source: Path, cache: Path) -> Path:
    """A folder in `cache` with the tokenizer's files as `tokenizer_json.write` writes them, made if it is missing.

    Raises:
        InputError: as `tokenizer_json.write`, or the disk is full.
    """
    made_of = {
        "files": {path.name: files.sha256(path) for path in encoder.tokenizer_files(source)},
        "config": files.sha256(source / "config.json"),
    }
    return make_once(place(cache, "tokenizer", made_of), partial(tokenizer_json.write, source))


def save(model: nn.Module, weights: dict[str, torch.Tensor], tokenizer: Path, folder: Path) -> None:
    """Write a complete Hugging Face folder, replacing one that may exist.

    Args:
        model: gives the configuration.
        weights: the tensors to save, in fp32.
        tokenizer: folder of the tokenizer's files.
        folder: where to write.

    Raises:
        InputError: it cannot be written, for example because the disk is full; the existing folder remains.
    """
    try:
        with files.replaced_folder(folder) as temporary:
            model.save_pretrained(temporary, state_dict=weights, safe_serialization=True)  # type: ignore[operator]
            config = copy.copy(model.config)
            config.dtype = torch.float32  # the dtype of the saved weights; the module may compute in fp16
            config.save_pretrained(temporary)  # type: ignore[union-attr,operator]
            shutil.copytree(tokenizer, temporary, dirs_exist_ok=True)
    except (OSError, SafetensorError) as error:
        rule = "make room and continue with --resume"
        raise InputError(f"{folder}: the model could not be written ({error}); {rule}") from error


def _dropout(folder: Path, probability: float | None) -> dict[str, Any]:
    """Settings for every dropout in the model's configuration, which each family names differently."""
    if probability is None:
        return {}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of any type, as in `pytorch.load`
        raise InputError(f"{folder}: not a model ({one_line(error):.300})") from error
    return {
        key: probability
        for key, value in config.to_dict().items()
        if "dropout" in key and (value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)))
    }


def _freeze(model: nn.Module, freeze: Freeze) -> None:
    frozen = list(layers(model)[: freeze.layers])
    if freeze.embeddings:
        frozen.append(model.base_model.embeddings)  # type: ignore[union-attr,arg-type]
    for module in frozen:
        module.requires_grad_(False)


def _checkpoint_gradients(model: nn.Module, folder: Path) -> None:
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    except ValueError as error:
        raise InputError(
            f"training.gradient_checkpointing: {folder} does not support it ({error}); leave it out"
        ) from None


def _depths(model: nn.Module) -> dict[int, int]:
    """The depth below the head of each encoder parameter, by its id; what the layers share is deepest."""
    own = layers(model)
    depths = {
        id(parameter): len(own) + 1
        for name, parameter in model.base_model.named_parameters()  # type: ignore[union-attr]
        if not name.startswith(ABOVE)
    }
    for index, layer in enumerate(own):
        depths |= {id(parameter): len(own) - index for parameter in layer.parameters()}
    return depths


def layers(model: nn.Module) -> nn.ModuleList:
    """The encoder's layers: the list of modules whose length is the number of layers in the configuration."""
    count = model.config.num_hidden_layers  # type: ignore[union-attr]
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return found[0] if found else nn.ModuleList()
