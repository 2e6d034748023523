"""The report on the data before training: counts, lengths, examples as the model reads them, and warnings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError
from bertline.launch import check
from bertline.train.data.survey import survey
from tests.conftest import make_texts


def write(folder: Path, model: Path, rows: list[dict[str, Any]], test: list[dict[str, Any]], **recipe: Any) -> Path:
    for name, each in (("train", rows), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
    raw = {"name": "a", "task": "text-classification", "model": str(model), "tokens": {"max_length": 16}, "data": data}
    (folder / "recipe.yaml").write_text(json.dumps({**raw, **recipe}))
    return folder / "recipe.yaml"


def test_what_is_told_of_texts(model: Path, tmp_path: Path) -> None:
    rows = [row for index, row in enumerate(make_texts(400)) if row["label"] == "negative" or index % 40 == 1]
    test = [*rows[:3], {"text": " ", "label": "positive"}]
    found = survey(recipes.load(write(tmp_path, model, rows + rows[-2:], test)))
    assert found["examples"]["test"] == 4
    assert (found["duplicates"], found["leaked"], found["contradicting"]) == (5, 3, 0)
    counts = found["labels"]
    assert sum(sum(each.values()) for each in counts.values()) == sum(found["examples"].values())
    tokens = found["tokens"]
    assert 4 < tokens["p50"] <= tokens["p90"] <= tokens["p99"] <= tokens["max"]
    assert 0.5 < tokens["longer_share"] < 1
    assert len(found["shown"]) == 10
    assert all(one["read"].startswith("[CLS] ") and one["tokens"] <= 16 for one in found["shown"])
    assert any(one["truncated"] for one in found["shown"])
    told = "\n".join(found["warnings"])
    for words in ("3 training rows also appear in a held-out split", "2 training rows repeat an earlier one",
                  "1 texts are empty", "'negative' appears", "of the texts are longer than max_length 16"):  # fmt: skip
        assert words in told
    json.dumps(found)


def test_sound_data_gives_no_warning(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_texts(80)
    found = survey(recipes.load(write(tmp_path, model, rows[:60], rows[60:]), ["tokens.max_length=64"]))
    assert found["warnings"] == []
    told = capsys.readouterr()
    assert told.err.splitlines() == [f"reading {tmp_path / 'train.jsonl'}", "tokenizing 54 texts"]
    assert told.out == ""


@pytest.mark.parametrize(
    ("count", "metric", "words"),
    [
        (200, "accuracy", r"0\.01\d+; about \d{3} would suffice for 0\.01"),
        (400, "accuracy", r"0\.00\d+"),
        (200, "macro_f1", None),  # it depends on the answers
    ],
)
def test_what_an_export_can_show_is_told(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int,
    metric: str,
    words: str | None,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = make_texts(500)
    recipe = write(tmp_path, model, rows[:480], rows[480:])
    check.show(survey(recipes.load(recipe, [f"data.take.validation={count}", f"training.best={metric}"])))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation: ")]
    assert len(told) == (words is not None)
    assert all(
        re.fullmatch(f"validation: {count} examples; export cannot show a drop below {words}", one) for one in told
    )


def test_held_out_texts_that_stand_twice_are_told(model: Path, tmp_path: Path) -> None:
    rows = make_texts(80)
    found = survey(recipes.load(write(tmp_path, model, rows[:60], rows[60:] + rows[70:]), ["tokens.max_length=64"]))
    assert found["warnings"] == ["10 test examples repeat the text of an earlier one; each counts in the scores"]


def test_a_label_of_which_nothing_is_measured_is_told(model: Path, tmp_path: Path) -> None:
    rows = make_texts(80)
    test = [row for row in rows[60:] if row["label"] == "negative"]
    found = survey(recipes.load(write(tmp_path, model, rows[:60], test), ["tokens.max_length=64"]))
    words = "no test example has the label 'positive'; it is not measured there, and a macro average counts it as 0"
    assert found["warnings"] == [words]


@pytest.mark.parametrize(("task", "what"), [("text-classification", "first text"), ("question-answering", "context")])
def test_what_is_held_out_of_a_text_in_training_is_told(model: Path, tmp_path: Path, task: str, what: str) -> None:
    def row(number: int, text: int) -> dict[str, Any]:
        if task == "question-answering":
            return {"question": f"{number}?", "context": f"red {text}", "answers": []}
        return {"text": f"red {text}", "other": f"{number}", "label": "ab"[number % 2]}

    rows, test = [row(number, number) for number in range(60)], [row(number + 100, 50 + number) for number in range(20)]
    recipe = recipes.load(
        write(tmp_path, model, rows, test, task=task),
        ["data.text_pair=other"] if task == "text-classification" else [],
    )
    (told,) = [one for one in survey(recipe)["warnings"] if "share" in one]
    words = rf"\d+ test examples share their {what} with training examples; their scores are optimistic"
    assert re.fullmatch(words, told)
    assert 1 <= int(told.split()[0]) <= 10


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["positive", " Positive"], "' Positive', 'positive' count as 2 labels; if they mean one, spell them the same"),
        (["1", "1.0"], "'1', '1.0' count as 2 labels; if they mean one, spell them the same"),
        (["positive", "NaN"], "'NaN' counts as a label, though it may mean that there is none; data.where: {label: "),
    ],
)
def test_names_that_are_most_likely_one_label_or_none_are_told(
    model: Path, tmp_path: Path, names: list[str], words: str
) -> None:
    rows = [{"text": f"red {index}", "label": ["negative", *names][index % 3]} for index in range(90)]
    found = survey(recipes.load(write(tmp_path, model, rows[:60], rows[60:]), ["tokens.max_length=64"]))
    (told,) = found["warnings"]
    assert told.startswith(words)


def test_labels_are_shown_with_the_blanks_that_tell_them_apart(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"red {index}", "label": ["bad", "good", "good "][index % 3]} for index in range(90)]
    check.show(survey(recipes.load(write(tmp_path, model, rows[:60], rows[60:]), ["tokens.max_length=64"])))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("│")[1].strip() for line in lines if "good" in line and "│" in line] == ["good", "'good '"]
    assert any(line.startswith("'good '  (") for line in lines)


@pytest.mark.parametrize(("scale", "told"), [(1.0, 0), (30.0, 1)])
def test_numbers_that_are_far_from_0_are_told(model: Path, tmp_path: Path, scale: float, told: int) -> None:
    rows = [{**row, "label": scale * (index % 5)} for index, row in enumerate(make_texts(80))]
    path = write(tmp_path, model, rows[:60], rows[60:], problem_type="regression")
    warnings = survey(recipes.load(path, ["tokens.max_length=64"]))["warnings"]
    assert len(warnings) == told
    assert all("a model starts near 0" in one and "subtract the mean" in one for one in warnings)


def test_texts_without_labels_are_counted_and_shown(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_texts(80)
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in make_texts(7, seed=3)))
    path = write(tmp_path, model, rows[:60], rows[60:], teacher=str(model))
    found = survey(recipes.load(path, [f"data.unlabelled={more}"]))
    assert found["examples"]["unlabelled"] == 7
    check.show(found)
    lines = capsys.readouterr().out.splitlines()
    (examples,) = (line.split("│")[1:-1] for line in lines if line.startswith("│ examples"))
    (positive,) = (line.split("│")[1:-1] for line in lines if line.startswith("│ positive"))
    assert [examples[-1].strip(), positive[-1].strip()] == ["7", ""]
    assert sum(int(cell) for cell in positive[1:-1]) == 40


def entities(number: int) -> dict[str, Any]:
    return {"tokens": ["Bonn", "is", str(number)], "tags": ["B-C", "O", "O"]}


def question(number: int) -> dict[str, Any]:
    return {"question": "a?", "context": f"{number} " + "a " * 40, "answers": []}


@pytest.mark.parametrize(
    ("task", "row", "label"),
    [("token-classification", entities, "C"), ("question-answering", question, "unanswerable")],
)
def test_other_tasks_are_counted_in_their_own_words(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, row: Any, label: str
) -> None:
    rows = [row(number) for number in range(40)]
    found = survey(recipes.load(write(tmp_path, model, rows[:30], rows[30:], task=task), ["data.take.validation=1"]))
    assert found["labels"]["train"] == {label: 29}
    assert (found["shown"][0]["windows"] > 1) == (task == "question-answering")
    assert not any("cut off" in warning for warning in found["warnings"])
    check.show(found)
    shown = "\nBonn (C)  (" if task == "token-classification" else "\nnothing  ("
    assert shown in capsys.readouterr().out


def test_entities_that_are_parts_of_words_are_counted(model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"The Paris-based firm, {number}", "entities": []} for number in range(40)]
    for row in rows[::4]:
        row["entities"] = [{"start": 4, "end": 9, "label": "C"}, {"start": 16, "end": 20, "label": "C"}]
    recipe = write(tmp_path, model, rows[:30], rows[30:], task="token-classification")
    (told,) = (one for one in survey(recipes.load(recipe))["warnings"] if "inside a word" in one)
    assert told.startswith("10 of 20 entities begin or end inside a word, like 'Paris' in 'Paris-based': only whole")


@pytest.mark.parametrize(
    ("kind", "words", "weighed"),
    [
        ("single_label_classification", "look at macro_f1 or per_label rather than at accuracy", True),
        ("multi_label_classification", "look at macro_f1 or per_label rather than at micro_f1", False),
        ("token-classification", "look at per_label rather than at f1, which pools all entities", True),
        ("question-answering", "f1 and exact_match say little about the rarer one", False),
    ],
)
def test_a_rare_label_is_told_with_what_the_task_has(
    model: Path, tmp_path: Path, kind: str, words: str, weighed: bool
) -> None:
    def row(number: int) -> dict[str, Any]:
        name, text = "ab"[number % 30 == 0], f"a {number}"
        if kind == "token-classification":
            return {"tokens": text.split(), "tags": ["O", f"B-{name}"]}
        if kind == "question-answering":
            answers = [{"text": "a", "answer_start": 0}] if name == "b" else []
            return {"question": "a?", "context": text, "answers": answers}
        return {"text": text, "label": [name] if kind.startswith("multi") else name}

    rows = [row(number) for number in range(240)]
    task = {"task": kind} if "-" in kind else {"task": "text-classification", "problem_type": kind}
    path = write(tmp_path, model, rows[:180], rows[180:], **task)
    for sets, names_weights in ([], weighed), ([f"teacher={model}"], False):
        (told,) = [each for each in survey(recipes.load(path, sets))["warnings"] if "times as often as" in each]
        assert told.partition(": ")[2] == words + ("; training.class_weights may help" if names_weights else "")


def test_a_model_that_is_nowhere_is_told_with_its_key(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    rows = make_texts(60)
    with pytest.raises(InputError, match=r"^model: nosuch: not a local folder"):
        survey(recipes.load(write(tmp_path, model, rows, rows[:1]), ["model=nosuch"]))
