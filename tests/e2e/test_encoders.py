"""Every encoder with every task, tiny and random: two steps of training, export with its gates, and answers."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bertline.artifacts import bundle
from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.export.export import export
from bertline.export.terms import Terms
from bertline.serve.engine import Engine
from tests import encoders
from tests.export.conftest import measure_briefly
from tests.train.conftest import losses, train_here

pytestmark = pytest.mark.usefixtures("rank")

CITIES = ("Berlin", "Paris", "New York", "München")
TASKS = ("text-classification", "token-classification", "question-answering")
LABELS: dict[str, Callable[[str], Any]] = {
    "text-classification": lambda city: city[0],
    "multi_label_classification": lambda city: [city[0], "two words"] if " " in city else [city[0]],
    "regression": len,
}
EXTRA = [("bert", problem) for problem in LABELS if problem not in TASKS]
"""Which problem a classifier is for is nothing to the encoder: one will do."""
UNSUPPORTED = {("modernbert", "question-answering"): "optimum does not convert 'modernbert' for question-answering"}
"""What the libraries do not do, and what is said of it."""

TERMS = Terms(max_drop=2.0, quick=True)
"""Whatever is lost: two steps teach nothing, and a correlation may turn round."""


def row(task: str, number: int) -> dict[str, Any]:
    city = CITIES[number % len(CITIES)]
    if task in LABELS:
        return {"text": f"number {number}: {city} is a city", "label": LABELS[task](city)}
    if task == "token-classification":
        tokens = ["number", str(number), *city.split(), "it", "is"]
        return {"tokens": tokens, "tags": ["O", "O", "B-C", *["I-C"] * (len(tokens) - 5), "O", "O"]}
    context = f"number {number}: {city} it is"
    answers = {"text": [city], "answer_start": [context.index(city)]}
    return {"question": "which city?", "context": context, "answers": answers}


def write(folder: Path, encoder: str, task: str) -> Path:
    encoders.make(encoder, folder / "model")
    rows = [row(task, number) for number in range(80)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    kind = {"task": task} if task in TASKS else {"task": "text-classification", "problem_type": task}
    recipe = {
        "name": "tiny", **kind, "model": str(folder / "model"),
        "data": {"train": str(folder / "rows.jsonl"), "take": {"train": 32, "validation": 24, "test": 24}},
        "tokens": {"max_length": 48, "stride": 8},
        "training": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "precision": "fp32", "logging_steps": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.mark.parametrize(("encoder", "task"), [*itertools.product(encoders.ENCODERS, TASKS), *EXTRA])
def test_the_line(encoder: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)
    run: RunFolder = train_here(write(tmp_path, encoder, task), tmp_path / "run")
    assert len(losses(run)) == 2
    assert np.isfinite(losses(run)).all()
    if (encoder, task) in UNSUPPORTED:
        with pytest.raises(InputError, match=UNSUPPORTED[encoder, task]):
            export(str(run.path), tmp_path / "bundle", TERMS)
        return
    export(str(run.path), tmp_path / "bundle", TERMS)
    manifest = bundle.verify(tmp_path / "bundle")
    assert manifest.fidelity.max_abs_logit_diff <= 1e-3
    assert manifest.alone == read_summary(run.path).alone
    engine = Engine.load(tmp_path / "bundle")
    examples = engine.task.read_file(run.split("test"))
    answers = engine.predict([example.texts for example in examples])
    assert len(answers) == len(examples) == 24
    scores = engine.task.score(examples, answers)
    assert all(-1 <= scores[name] <= 1 for name in manifest.scores)
