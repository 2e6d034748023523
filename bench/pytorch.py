"""The yardstick: the fine-tuned model as PyTorch computes it, eager, float32.

Imports torch and transformers, so only the child process of a `worker` (and tests) ever import this module.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig
from transformers.utils import logging

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError
from bertline.tasks.text_classification import Logits
from bertline.tasks.tokens import Batch


class PyTorchRuntime:
    """A Hugging Face sequence classifier with its default attention, on the CPU.

    Raises:
        InputError: the folder is refused by `encoder.check`, is no text classifier, or lacks weights: transformers
            would fill them with random numbers and only warn.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        logging.set_verbosity_error()  # what it would warn of is checked here
        self.model, info = model_class(folder).from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
        if info["missing_keys"]:
            raise InputError(
                f"{folder}: no weights for {', '.join(sorted(info['missing_keys']))}; only a model that was "
                "fine-tuned for text classification can be measured"
            )
        self.model.eval()
        self.inputs = inspect.signature(self.model.forward).parameters.keys()

    @torch.inference_mode()
    def run(self, batch: Batch) -> Logits:
        """Logits, float32 (batch, labels), of int64 arrays (batch, length); inputs the model lacks are left out."""
        tensors = {name: torch.from_numpy(array) for name, array in batch.items() if name in self.inputs}
        logits: Logits = self.model(**tensors).logits.numpy()
        return logits


def model_class(folder: Path) -> Any:
    """The class that reads this folder. transformers imports its module here, once in a process: about 0.3 s."""
    encoder.check(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(f"{folder}: config.json: transformers has no text classifier of type {config.model_type!r}")
    return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
