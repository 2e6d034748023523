"""The yardstick: the fine-tuned model as PyTorch computes it, eager, float32.

Imports torch and transformers: it is for the child process of a `worker`, and for those that convert the model.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig
from transformers.utils import logging

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch


class PyTorchRuntime:
    """A Hugging Face model with its default attention, on the CPU.

    Raises:
        InputError: the folder is refused by `encoder.check`, has no head of that architecture, holds other weights than
            config.json tells, or lacks some: transformers would fill them with random numbers and only warn.
    """

    def __init__(self, folder: Path, architecture: str, threads: int) -> None:
        torch.set_num_threads(threads)
        logging.set_verbosity_error()  # what it would warn of is checked here
        try:
            self.model, info = model_class(folder, architecture).from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
        except (InputError, MemoryError):
            raise
        except Exception as error:  # of any kind: each key of config.json is taken as it is, somewhere
            raise InputError(f"{folder}: not a model {architecture} ({' '.join(str(error).split()):.300})") from error
        if info["missing_keys"]:
            raise InputError(
                f"{folder}: no weights for {', '.join(sorted(info['missing_keys']))}; only a model that was "
                f"fine-tuned {architecture} can be measured"
            )
        self.model.eval()
        self.inputs = inspect.signature(self.model.forward).parameters.keys()

    @torch.inference_mode()
    def run(self, batch: Batch) -> Output:
        """As `Runtime.run`, of int64 arrays (batch, length); inputs the model lacks are left out."""
        tensors = {name: torch.from_numpy(array) for name, array in batch.items() if name in self.inputs}
        found = self.model(**tensors)
        if "start_logits" in found:
            return np.asarray(torch.stack([found.start_logits, found.end_logits], dim=-1).numpy())
        return np.asarray(found.logits.numpy())


def model_class(folder: Path, architecture: str) -> Any:
    """The class that reads this folder. transformers imports its module here, once in a process: about 2 s."""
    encoder.check(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    known = getattr(transformers, f"AutoModel{architecture}")._model_mapping
    if type(config) not in known:
        raise InputError(f"{folder}: config.json: transformers has no {config.model_type!r} {architecture}")
    return known[type(config)]
