"""The Hugging Face files of a bundle: the model's own, which also tell other tools how to answer as bertline does."""

import json
import shutil
from pathlib import Path
from typing import Any

from bertline.artifacts import encoder, files
from bertline.artifacts.task import TaskSettings

FILES = ("config.json", *encoder.TOKENIZER_FILES)
"""Copied where the model has them; nothing else of its folder is."""


def write(folder: Path, model: Path, settings: TaskSettings, split: bool) -> None:
    """Write a bundle's FILES.

    Args:
        folder: the bundle.
        model: the Hugging Face folder that it was made of.
        settings: of its task.
        split: whether the weights lie in a file beside the ONNX model's.
    """
    for name in FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    # a browser would look for onnx/model_quantized.onnx: "fp32" means the plain name, whatever the weights are
    javascript = {"dtype": "fp32", **({"use_external_data_format": True} if split else {})}
    problem = {"problem_type": settings.problem_type} if settings.problem_type else {}
    _add(folder / "config.json", {**problem, "transformers.js_config": javascript})
    tokens = settings.tokens
    side = "left" if tokens.long == "tail" else "right"
    _add(folder / "tokenizer_config.json", {"model_max_length": tokens.max_length, "truncation_side": side})


def _add(path: Path, keys: dict[str, Any]) -> None:
    present = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    files.write_json(path, {**present, **keys})
