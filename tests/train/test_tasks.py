"""Every task trains, keeps its best model and scores it; the recipe's task settings reach the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertline.artifacts import run as runs
from tests.conftest import WORDS, make_texts
from tests.train.conftest import losses, train_here

pytestmark = pytest.mark.usefixtures("rank")


def write(folder: Path, model: Path, rows: list[dict[str, Any]], **recipe: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"epochs": 10, "learning_rate": 3e-3, "batch_size": 16, "precision": "fp32", "logging_steps": 1}
    raw: dict[str, Any] = {
        "name": "tiny", "model": str(model), "tokens": {"max_length": 32}, "training": training, **recipe,
    }  # fmt: skip
    raw["data"] = {"train": str(folder / "rows.jsonl"), "take": {"validation": 20, "test": 20}, **raw.get("data", {})}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return folder / "recipe.yaml"


def moods(text: str) -> list[str]:
    """Which of the two kinds of words a text contains."""
    return [mood for mood, words in WORDS.items() if set(words) & set(text.split())]


def test_several_labels(model: Path, tmp_path: Path) -> None:
    texts = [row["text"] for row in make_texts(60)]
    texts += [f"{one} {other}" for one, other in zip(texts[::2], texts[1::2], strict=True)] + ["the film", "a plot"] * 8
    rows = [{"text": f"{text} {number}", "label": moods(text)} for number, text in enumerate(texts)]
    recipe = write(tmp_path, model, rows, task="text-classification", problem_type="multi_label_classification")
    scored: list[Any] = []

    def look(trainer: Any) -> None:
        score = trainer.score

        def observed(model: Any, split: Any, task: Any, *rest: Any, **named: Any) -> Any:
            scored.append((split.name, task.settings.decision))
            return score(model, split, task, *rest, **named)

        trainer.score = observed

    run = train_here(recipe, tmp_path / "run", ["training.epochs=60", "tokens.max_length=64"], look=look)
    summary = runs.read_summary(run.path)
    assert scored[-1] == ("test", summary.decision)
    assert (summary.metric, summary.labels) == ("micro_f1", ["negative", "positive"])
    assert summary.decision == summary.best.decision
    assert summary.decision.thresholds is not None
    assert summary.test["micro_f1"] > 0.8
    assert losses(run)[-1] < losses(run)[0] / 2


def test_regression(model: Path, tmp_path: Path) -> None:
    rows = [{**row, "stars": 1.0 if row["label"] == "positive" else -1.0} for row in make_texts(120)]
    data = {"label": "stars"}
    run = train_here(
        write(tmp_path, model, rows, task="text-classification", problem_type="regression", data=data), tmp_path / "run"
    )
    summary = runs.read_summary(run.path)
    assert (summary.metric, summary.labels) == ("pearson", ["score"])
    assert summary.test["pearson"] > 0.8
    assert summary.test["mse"] == pytest.approx(summary.test["loss"], rel=1e-4)


@pytest.mark.parametrize("long", ["tail", "head+tail", "windows"])
def test_long_texts(model: Path, tmp_path: Path, long: str) -> None:
    padding = "the film " * 20
    rows = [{**row, "text": f"{padding} {row['text']}" if long == "tail" else row["text"]} for row in make_texts(120)]
    tokens = {"max_length": 16, "long": long}
    run = train_here(write(tmp_path, model, rows, task="text-classification", tokens=tokens), tmp_path / "run")
    summary = runs.read_summary(run.path)
    assert summary.tokens.long == long
    assert summary.test["accuracy"] > 0.7


def test_weights_and_smoothing(model: Path, tmp_path: Path) -> None:
    rows = [row for index, row in enumerate(make_texts(200)) if row["label"] == "negative" or index % 10 == 1]
    recipe = write(tmp_path, model, rows, task="text-classification")
    sets = ["training.class_weights=balanced", "training.label_smoothing=0.1", "training.best=macro_f1"]
    assert runs.read_summary(train_here(recipe, tmp_path / "run", sets).path).test["macro_f1"] > 0.7


def test_entities(model: Path, tmp_path: Path) -> None:
    kinds = {word: mood for mood, words in WORDS.items() for word in words}
    rows = []
    for row in make_texts(120):
        tokens = row["text"].split()
        rows.append({"tokens": tokens, "tags": [f"B-{kinds[token]}" if token in kinds else "O" for token in tokens]})
    run = train_here(write(tmp_path, model, rows, task="token-classification"), tmp_path / "run")
    summary = runs.read_summary(run.path)
    assert summary.labels == ["O", "B-negative", "I-negative", "B-positive", "I-positive"]
    assert (summary.tokens.long, summary.tokens.stride) == ("windows", 8)
    assert summary.test["f1"] > 0.8
    assert losses(run)[-1] < losses(run)[0] / 2


@pytest.mark.parametrize("unanswerable", [0, 30])
def test_answers(model: Path, tmp_path: Path, unanswerable: int) -> None:
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(make_texts(120)):
        context = row["text"]
        word = next(word for word in context.split() if word in WORDS[row["label"]])
        answers = {"text": [word], "answer_start": [f" {context} ".index(f" {word} ")]}
        if number < unanswerable:
            context, answers = f"the film was a movie with the plot {number}", {"text": [], "answer_start": []}
        rows.append({"question": f"the {row['label']} word {number}", "context": context, "answers": answers})
    run = train_here(write(tmp_path, model, rows, task="question-answering"), tmp_path / "run")
    summary = runs.read_summary(run.path)
    assert summary.labels == []
    assert (summary.decision.no_answer_threshold is not None) == bool(unanswerable)
    assert losses(run)[-1] < losses(run)[0]
    assert 0 <= summary.test["f1"] <= 1
