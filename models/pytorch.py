"""A model as PyTorch computes it, eager, float32: the reference of what is measured, and what training begins with.

Imports torch and transformers: it is for the child process of a `worker`, and for those that train or convert a model.
"""

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch


class PyTorchRuntime:
    """A Hugging Face model with its default attention, on the CPU.

    Raises:
        InputError: as `load`.
    """

    def __init__(self, folder: Path, architecture: str, threads: int) -> None:
        torch.set_num_threads(threads)
        logging.set_verbosity_error()  # for the whole life of the process: what is measured is not commented on
        self.model = load(folder, architecture)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Output:
        """As `Runtime.run`, of int64 arrays (batch, length)."""
        return np.asarray(outputs(self.model, {name: torch.from_numpy(array) for name, array in batch.items()}).numpy())


def load(folder: Path, architecture: str, trained: bool = True, **settings: Any) -> nn.Module:
    """A Hugging Face model in float32, to be evaluated; never with code from the folder.

    Args:
        folder: of the model.
        architecture: how the name of its class ends.
        trained: whether it must have its head; else one is drawn at random where the folder has none of that shape.
        settings: of its configuration, instead of what config.json says.

    Raises:
        InputError: the folder is refused by `encoder.check`, has no head of that architecture, holds other weights than
            config.json tells, or lacks some: transformers would fill them with random numbers and only warn.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is checked here
    try:
        kind = model_class(folder, architecture)
        if kind.config_class.model_type == "modernbert":  # by itself it takes flash-attn's, which knows no CPU or fp32
            settings["attn_implementation"] = "sdpa"
        model, found = kind.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True, **settings,
        )  # fmt: skip
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of any kind: each key of config.json is taken as it is, somewhere
        raise InputError(f"{folder}: not a model {architecture} ({' '.join(str(error).split()):.300})") from error
    finally:
        logging.set_verbosity(level)
    needed = "" if trained else f"{model.base_model_prefix}."
    if mismatched := [name for name in found["mismatched_keys"] if name.startswith(needed)]:
        raise InputError(f"{folder}: config.json and weights do not fit: {_shapes(folder, model, mismatched[0])}")
    missing = sorted(name for name in found["missing_keys"] if name.startswith(needed))
    if not trained:  # what is above the encoder may be new
        missing = [name for name in missing if ".pooler." not in name]
    if missing:
        rule = f"only a model that was fine-tuned {architecture} will do" if trained else "its encoder must be whole"
        raise InputError(f"{folder}: no weights for {', '.join(missing):.200}; {rule}")
    if hasattr(model.config, "reference_compile"):
        model.config.reference_compile = False  # ModernBERT would compile itself on a GPU, by a C compiler
    loaded: nn.Module = model
    return loaded


def outputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a model, or the DeepSpeed engine around it, makes of a batch, in float32; inputs it lacks are left out.

    Returns:
        (windows, labels); (windows, tokens, labels) of a head on every token; (windows, tokens, 2) of one that finds
        starts and ends.
    """
    inner: nn.Module = getattr(model, "module", model)
    known = input_names(type(inner).forward)
    output = model(**{name: tensor for name, tensor in inputs.items() if name in known})
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1).float()
    computed: torch.Tensor = output.logits.float()
    return computed


@cache
def input_names(forward: Callable[..., Any]) -> frozenset[str]:
    """What the forward of a class of models takes: some families know no token types."""
    return frozenset(inspect.signature(forward).parameters)


def model_class(folder: Path, architecture: str) -> Any:
    """The class that reads this folder. transformers imports its module here, once in a process: about 2 s."""
    encoder.check(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    known = getattr(transformers, f"AutoModel{architecture}")._model_mapping
    if type(config) not in known:
        raise InputError(f"{folder}: config.json: transformers has no {config.model_type!r} {architecture}")
    return known[type(config)]


def _shapes(folder: Path, model: nn.Module, name: str) -> str:
    """Of a weight: what the configuration makes of it, and what the folder holds."""
    stored = "another"
    for path in encoder.weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                if f".{name}".endswith(f".{key}"):  # an encoder's own names lack what the head's model calls it
                    stored = str(tuple(tensors.get_slice(key).get_shape()))
    return f"{name} has shape {tuple(model.state_dict()[name].shape)} by the one, {stored} by the other"
