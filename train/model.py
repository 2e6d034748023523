"""The model of a run and its optimizer: loaded from a checked folder, frozen and grouped as the recipe says; and saved.

A model folder is data: `encoder.check` has refused whatever could run code before anything here opens it, and weights
are read from and written as safetensors alone.
"""

import copy
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from bertline.artifacts import encoder, files
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Freeze, Training
from bertline.models import pytorch, tokenizer_json
from bertline.tasks.task import Task
from bertline.train.cache import make_once, place
from bertline.train.deepspeed_config import Precision

AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What matrices are multiplied in, where that is not fp32."""
ABOVE = ("pooler.", "final_norm.", "LayerNorm.", "encoder.ln.", "encoder.emb_layer_norm_after.")
"""Parameters of an encoder that its layers' outputs go through; others that no layer has are below or shared by all."""


def load(folder: Path, task: Task, training: Training) -> nn.Module:
    """The folder's encoder with a head for the task, drawn by the seed where the folder has none of that shape.

    Raises:
        InputError: as `pytorch.load`; it does not know gradient checkpointing.
    """
    encoder.check(folder)
    torch.manual_seed(training.seed)
    labels = task.labels
    settings = _dropout(folder, training.dropout)
    if labels:
        settings |= {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": _indices(labels)}
    if task.settings.task == "question-answering":
        settings["num_labels"] = 2  # start and end, however many classes a model has told apart before
    if task.settings.problem_type:
        settings["problem_type"] = task.settings.problem_type
    model = pytorch.load(folder, task.architecture, trained=False, **settings)
    _freeze(model, training.freeze)
    if training.gradient_checkpointing:
        _checkpoint_gradients(model, folder)
    return model


def optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over what is not frozen; weights decay, biases and norms (vectors, all of them) do not.

    Each layer's learning rate is `layer_decay` of that of the layer above (arXiv:1801.06146, section 3.2); the head is
    above them all, the embeddings are below, with what all layers share. torch's fused kernel updates each tensor in
    one pass over memory.
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
    """Linear warm-up to the learning rate; then down to 0 at the last of `steps`, by a line or cosine, or constant."""
    kind = training.lr_scheduler_type
    name = "constant_with_warmup" if kind == "constant" else kind
    warmup = math.ceil(training.warmup_ratio * steps)
    made: torch.optim.lr_scheduler.LambdaLR = transformers.get_scheduler(name, optimizer, warmup, steps)
    return made


def keep_tokenizer(source: Path, cache: Path) -> Path:
    """A folder with the tokenizer's files as `tokenizer_json.write` has them, made in `cache` if it is not there.

    Raises:
        InputError: as `tokenizer_json.write`; or there is no room to write.
    """
    made_of = {
        "files": {path.name: files.sha256(path) for path in encoder.tokenizer_files(source)},
        "config": files.sha256(source / "config.json"),
    }
    folder = place(cache, "tokenizer", made_of, ["models/tokenizer_json.py"], ["tokenizers", "transformers"])
    return make_once(folder, partial(tokenizer_json.write, source))


def save(model: nn.Module, weights: dict[str, torch.Tensor], tokenizer: Path, folder: Path) -> None:
    """Put a complete Hugging Face folder at `folder`, in the place of one that may stand there.

    Raises:
        InputError: it cannot be written, for want of space for example; what stood there still does.
    """
    try:
        with files.replaced_folder(folder) as temporary:
            model.save_pretrained(temporary, state_dict=weights, safe_serialization=True)  # type: ignore[operator]
            config = copy.copy(model.config)
            config.dtype = torch.float32  # of the weights that are saved; the module may compute in fp16
            config.save_pretrained(temporary)  # type: ignore[union-attr,operator]
            shutil.copytree(tokenizer, temporary, dirs_exist_ok=True)
    except (OSError, SafetensorError) as error:
        rule = "make room and continue with --resume"
        raise InputError(f"{folder}: the model could not be written ({error}); {rule}") from error


def _indices(labels: Sequence[str]) -> dict[str, int]:
    return {label: index for index, label in enumerate(labels)}


def _dropout(folder: Path, probability: float | None) -> dict[str, Any]:
    """Settings for every dropout that the model's configuration knows: families name them differently."""
    if probability is None:
        return {}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as of `pytorch.load`
        raise InputError(f"{folder}: not a model ({' '.join(str(error).split()):.300})") from error
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
            f"training.gradient_checkpointing: {folder} does not know it ({error}); leave it out"
        ) from None


def _depths(model: nn.Module) -> dict[int, int]:
    """How many layers lie above each parameter of the encoder, by its id: all above what they share."""
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
    """The encoder's layers: the one list of modules that is as long as the configuration says they are."""
    count = model.config.num_hidden_layers  # type: ignore[union-attr]
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return found[0] if found else nn.ModuleList()
