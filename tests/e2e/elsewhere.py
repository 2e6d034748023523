"""A bundle in a pipeline of transformers, on the model that optimum opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertline.artifacts import bundle as bundles
from bertline.tasks import catalog


def opened(folder: Path, **settings: Any) -> Any:
    """A pipeline for the task of a bundle."""
    import optimum.onnxruntime
    from transformers import AutoTokenizer, pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    manifest = bundles.read(folder)
    kind = catalog.make(manifest).architecture
    model = getattr(optimum.onnxruntime, f"ORTModel{kind}").from_pretrained(folder)
    return pipeline(manifest.task, model=model, tokenizer=AutoTokenizer.from_pretrained(folder), **settings)


def scores(answer: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of an answer of a text classifier, by label."""
    return {one["label"]: one["score"] for one in answer}
