"""A model in PyTorch, eager, float32: the reference of all measurements, and the starting point of training.

Imports torch and transformers, so it is used in the child process of a `worker`, and for training and conversion.
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
from bertline.artifacts.errors import InputError, one_line
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch


class PyTorchRuntime:
    """A Hugging Face model with its default attention, on the CPU.

    Raises:
        InputError: see `load`.
    """

    def __init__(self, folder: Path, architecture: str, threads: int) -> None:
        torch.set_num_threads(threads)
        logging.set_verbosity_error()  # for the whole life of the process
        self.model = load(folder, architecture)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Output:
        """See `Runtime.run`; inputs are int64 arrays (batch, length)."""
        return np.asarray(outputs(self.model, {name: torch.from_numpy(array) for name, array in batch.items()}).numpy())


def load(folder: Path, architecture: str, trained: bool = True, **settings: Any) -> nn.Module:
    """Load a Hugging Face model in float32 and evaluation mode, never with code from the folder.

    Args:
        folder: the model folder.
        architecture: the suffix of its class, for example ForSequenceClassification.
        trained: whether the folder must hold the head; otherwise a missing or mismatched head is initialized randomly.
        settings: values that override config.json.

    Raises:
        InputError: the folder is rejected by `encoder.check`, has another architecture, or its weights do not match
            config.json or are incomplete: transformers would initialize missing ones randomly and only warn.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn about is checked here
    try:
        kind = model_class(folder, architecture)
        if kind.config_class.model_type == "modernbert":  # its default, flash-attn, has no CPU or fp32
            settings["attn_implementation"] = "sdpa"
        model, found = kind.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True, **settings,
        )  # fmt: skip
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of any kind: values in config.json are not validated
        raise InputError(f"{folder}: not a model {architecture} ({one_line(error):.300})") from error
    finally:
        logging.set_verbosity(level)
    needed = "" if trained else f"{model.base_model_prefix}."
    if mismatched := [name for name in found["mismatched_keys"] if name.startswith(needed)]:
        raise InputError(f"{folder}: config.json and weights do not fit: {_shapes(folder, model, mismatched[0])}")
    missing = sorted(name for name in found["missing_keys"] if name.startswith(needed))
    if not trained:  # layers above the encoder may be new
        missing = [name for name in missing if ".pooler." not in name]
    if missing:
        rule = f"only a model that was fine-tuned {architecture} will do" if trained else "its encoder must be whole"
        raise InputError(f"{folder}: no weights for {', '.join(missing):.200}; {rule}")
    if hasattr(model.config, "reference_compile"):
        model.config.reference_compile = False  # on a GPU, ModernBERT would need a C compiler
    loaded: nn.Module = model
    return loaded


def outputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The float32 logits of a model, or of the DeepSpeed engine around it; inputs that the model lacks are dropped.

    Returns:
        (windows, labels) for text classification, (windows, tokens, labels) for token classification, (windows, tokens,
        2) for question answering: start and end.
    """
    inner: nn.Module = getattr(model, "module", model)
    known = input_names(inner)
    output = model(**{name: tensor for name, tensor in inputs.items() if name in known})
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1).float()
    computed: torch.Tensor = output.logits.float()
    return computed


def input_names(model: nn.Module) -> frozenset[str]:
    """The inputs that a model takes: some families have no token types, and in some models all tokens have the same.

    A tokenizer may give types nevertheless, as BERT's does, which some models of the RoBERTa family have.
    """
    names = _parameters(type(model).forward)
    return names - {"token_type_ids"} if getattr(model.config, "type_vocab_size", None) == 1 else names


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def model_class(folder: Path, architecture: str) -> Any:
    """The model class for a folder. transformers imports its module here, once per process: about 2 s."""
    encoder.check(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    known = getattr(transformers, f"AutoModel{architecture}")._model_mapping
    if type(config) not in known:
        raise InputError(f"{folder}: config.json: transformers has no {config.model_type!r} {architecture}")
    return known[type(config)]


def _shapes(folder: Path, model: nn.Module, name: str) -> str:
    """The message that the shape of a weight differs between configuration and folder."""
    stored = "another"
    for path in encoder.weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                if f".{name}".endswith(f".{key}"):  # a bare encoder's names lack the prefix
                    stored = str(tuple(tensors.get_slice(key).get_shape()))
    return f"{name} has shape {tuple(model.state_dict()[name].shape)} by the one, {stored} by the other"
