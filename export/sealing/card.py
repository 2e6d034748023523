"""The model card of a bundle: README.md, with the metadata that model hubs read. All figures are from the manifest."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bertline.artifacts import places
from bertline.artifacts.bundle import Candidate, Manifest
from bertline.bench.report.templates import render
from bertline.tasks import catalog
from bertline.tasks.text_classification import TextClassification
from bertline.tasks.token_classification import TokenClassification


def card(manifest: Manifest, pytorch: Mapping[str, float], size_bytes: int) -> str:
    """Markdown with YAML metadata, which includes a model-index of the measured metric.

    Args:
        manifest: the bundle's manifest; its file list may still be empty.
        pytorch: PyTorch's median milliseconds by BATCHxLENGTH, timed in turns with the candidates.
        size_bytes: the size of PyTorch's weights.
    """
    golden = manifest.golden[0]
    texts = [text for text in (golden.text, golden.text_pair) if text is not None]
    return render(
        Path(__file__).with_name("card.md.j2"),
        manifest=manifest,
        metadata=yaml.safe_dump(_metadata(manifest), sort_keys=False, allow_unicode=True),
        purpose=_purpose(manifest),
        architecture=catalog.make(manifest).architecture,
        chosen=manifest.chosen,
        points=[point.replace("x", " × ") for point in pytorch],
        thresholds=TextClassification(manifest).thresholds,
        rows=[_pytorch_row(manifest, pytorch, size_bytes), *(_row(one) for one in manifest.candidates)],
        example=shlex.join(["--", *texts] if any(text.startswith("-") for text in texts) else texts),
        text=json.dumps(golden.text, ensure_ascii=False),
        pair=None if golden.text_pair is None else json.dumps(golden.text_pair, ensure_ascii=False),
    )


def _purpose(manifest: Manifest) -> str:
    """A sentence that says what the model does."""
    asked = "a pair of texts" if "text_pair" in manifest.inputs else "a text"
    if manifest.task == "question-answering":
        return "Finds the answer to a question in a text."
    if manifest.task == "token-classification":
        types = TokenClassification(manifest).types
        return f"Finds entities in a text: {', '.join(types)}."
    if manifest.problem_type == "regression":
        return f"Predicts a number for {asked}."
    how = "any number of" if manifest.problem_type == "multi_label_classification" else "one of"
    return f"Labels {asked} with {how} {', '.join(manifest.labels)}."


def _metadata(manifest: Manifest) -> dict[str, Any]:
    result = {
        "task": {"type": manifest.task},
        "dataset": _dataset(manifest),
        "metrics": [{"type": manifest.metric, "value": manifest.value, "name": manifest.metric.replace("_", " ")}],
    }
    bits, *_ = manifest.chosen.name.split("-")  # fp32, int8, int4
    base = {"base_model": manifest.source.model.partition("@")[0]} if places.is_hub_id(manifest.source.model) else {}
    return {
        **base,
        "library_name": "optimum",
        "pipeline_tag": manifest.task,
        "tags": ["bertline", "onnx", "onnxruntime", "optimum", bits],
        "model-index": [{"name": manifest.name, "results": [result]}],
    }


def _dataset(manifest: Manifest) -> dict[str, str]:
    """The model-index entry of the dataset that was measured on."""
    data = None if manifest.data is None else manifest.data.path
    which, split = ("", {"split": "validation"}) if data is None else (f" of {data}", {})
    name = f"{manifest.examples} labelled texts{which}, on which candidates were compared"
    kind = "validation" if data is None else re.sub(r"[^A-Za-z0-9_.-]+", "-", data).strip("-")  # as hubs take them
    return {"type": kind or "data", "name": name, **split}


def _pytorch_row(manifest: Manifest, pytorch: Mapping[str, float], size_bytes: int) -> list[str]:
    milliseconds = [f"{each:.2f}" for each in pytorch.values()]
    whose = "" if manifest.teacher is None else " (the teacher)"
    return [f"PyTorch, fp32{whose}", f"{manifest.baseline:.4f}", "", f"{size_bytes / 1e6:.1f}", *milliseconds, ""]


def _row(one: Candidate) -> list[str]:
    name = f"**{one.name}**" if one.chosen else one.name
    scored = ["", ""] if one.value is None else [f"{one.value:.4f}", f"{one.drop:+.4f}"]
    milliseconds = [f"{each:.2f}" for each in one.p50_ms.values()]
    return [name, *scored, f"{one.size_bytes / 1e6:.1f}", *milliseconds, one.why]
