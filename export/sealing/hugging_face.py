"""The Hugging Face files of a bundle: the model's own, with settings that make other tools answer as bertline does."""

import json
import shutil
from pathlib import Path
from typing import Any

from bertline.artifacts import encoder, files
from bertline.artifacts.task import TaskSettings


def write(folder: Path, model: Path, settings: TaskSettings, split: bool) -> None:
    """Write a bundle's config.json and its tokenizer's files.

    Args:
        folder: the bundle.
        model: the folder of config.json and the tokenizer; nothing else is copied from it.
        settings: the task's settings.
        split: whether an ONNX model has its weights in a separate file.
    """
    shutil.copyfile(model / "config.json", folder / "config.json")
    encoder.copy_tokenizer(model, folder)
    # transformers.js looks for onnx/model_quantized.onnx by default; "fp32" makes it load onnx/model.onnx, of any type
    javascript = {"dtype": "fp32", **({"use_external_data_format": True} if split else {})}
    problem = {"problem_type": settings.problem_type} if settings.problem_type else {}
    _add(folder / "config.json", {**problem, "transformers.js_config": javascript})
    tokens = settings.tokens
    side = "left" if tokens.long == "tail" else "right"
    _add(folder / "tokenizer_config.json", {"model_max_length": tokens.max_length, "truncation_side": side})


def _add(path: Path, keys: dict[str, Any]) -> None:
    present = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    files.write_json(path, {**present, **keys})
