"""Tiny random encoders through the whole line, in this process: two steps of training, and export with its gates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertline.artifacts.run import RunFolder
from bertline.export.export import export
from bertline.export.gates import adversarial
from bertline.export.options import ExportOptions
from tests import encoders
from tests.export.conftest import measure_briefly
from tests.train.conftest import train_here

CITIES = ("Berlin", "Paris", "New York", "München")
TASKS = ("text-classification", "token-classification", "question-answering")
LABELS: dict[str, Callable[[str], Any]] = {
    "text-classification": lambda city: city[0],
    "multi_label_classification": lambda city: [city[0], "two words"] if " " in city else [city[0]],
    "regression": len,
}
TRITON = "electra"
"""Laid out for Triton: one family of encoders will do."""


def trained(encoder: str, task: str, folder: Path) -> RunFolder:
    """A run in a folder of its own; `task` may be a problem type of text classification."""
    return train_here(_write(folder, encoder, task), folder / "run")


def exported(run: RunFolder, encoder: str) -> Path:
    """The bundle of a run, beside it."""
    bundle = run.path.with_name("bundle")
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        patch.setattr(adversarial, "LONGEST", [text[:2000] for text in adversarial.LONGEST])  # whole in tests/export
        layout = "triton" if encoder == TRITON else "huggingface"
        export(str(run.path), bundle, ExportOptions(max_drop=2.0, quick=True, layout=layout))  # whatever is lost
    return bundle


def _row(task: str, number: int) -> dict[str, Any]:
    city = CITIES[number % len(CITIES)]
    if task in LABELS:
        return {"text": f"number {number}: {city} is a city", "label": LABELS[task](city)}
    if task == "token-classification":
        tokens = ["number", str(number), *city.split(), "it", "is"]
        return {"tokens": tokens, "tags": ["B-N", "I-N", "B-C", *["I-C"] * (len(tokens) - 5), "O", "B-V"]}
    context = f"number {number}: {city} it is"
    answers = {"text": [city], "answer_start": [context.index(city)]}
    return {"question": "which city?", "context": context, "answers": answers}


def _write(folder: Path, encoder: str, task: str) -> Path:
    encoders.make(encoder, folder / "model")
    rows = [_row(task, number) for number in range(86)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    kind = {"task": task} if task in TASKS else {"task": "text-classification", "problem_type": task}
    recipe = {
        "name": "tiny", **kind, "model": str(folder / "model"),
        "data": {"train": str(folder / "rows.jsonl"), "take": {"train": 32, "validation": 30, "test": 24}},
        "tokens": {"max_length": 48},
        "training": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "precision": "fp32", "logging_steps": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"
