"""Folds keep strata and groups, hold every row out once, and never see the test split."""

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Recipe
from bertline.train.data import folds, sources, splitting
from tests.conftest import make_texts

Rows = list[dict[str, Any]]


def recipe(folder: Path, rows: Rows, search: dict[str, Any], **changes: Any) -> Recipe:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"train": str(folder / "rows.jsonl"), "take": {"validation": 0.2, "test": 0.1}}
    raw = {"name": "a", "task": "text-classification", "model": "b", "training": {"seed": 1}} | changes
    return Recipe.model_validate({**raw, "data": own | changes.get("data", {}), "search": search})


def cut(asked: Recipe, folder: Path) -> list[dict[str, Rows]]:
    """The rows of each fold by split, as they are in the files."""
    folds.make(asked, folder / "folds")
    numbers = range(1, asked.search.folds + 1)
    return [{name: read(folder / f"folds/{number}/{name}.jsonl") for name in splitting.SPLITS} for number in numbers]


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_strata_are_in_proportion_and_every_row_is_held_out_once(tmp_path: Path) -> None:
    rows: Rows = [*make_texts(240)]
    rows += [{**row, "text": f"again {row['text']}"} for row in rows if row["label"] == "positive"]
    asked = recipe(tmp_path, rows, {"folds": 3})
    found = cut(asked, tmp_path)
    (tmp_path / "own").mkdir()
    own = splitting.make(asked, tmp_path / "own")
    pool = {example.text for example in (*own.train, *own.validation)}
    held_out = [row["text"] for fold in found for row in fold["test"]]
    assert len(held_out) == len(pool)
    assert set(held_out) == pool
    assert pool.isdisjoint(example.text for example in own.test)
    for fold in found:
        texts = [row["text"] for row in chain(*fold.values())]
        assert len(texts) == len(set(texts)) == len(pool)
        for part in fold.values():
            share = Counter(row["label"] for row in part)["positive"] / len(part)
            assert share == pytest.approx(2 / 3, abs=0.02)
        assert len(fold["validation"]) / len(texts) == pytest.approx(2 / 3 * len(own.validation) / len(pool), abs=0.02)
    facts = folds.load(tmp_path / "folds")
    assert facts["put_aside"] == len(own.test) == 36
    assert facts["folds"] == [{name: len(part) for name, part in fold.items()} for fold in found]
    assert facts["labels"] == ["negative", "positive"]
    assert sorted(path.name for path in (tmp_path / "folds").iterdir()) == ["1", "2", "3", "folds.json"]


def test_a_test_split_that_is_named_is_never_read_into_a_fold(tmp_path: Path) -> None:
    rows = make_texts(90)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    asked = recipe(tmp_path, [*rows], {"folds": 2}, data={"test": str(tmp_path / "test.jsonl")})
    found = cut(asked, tmp_path)
    texts = {row["text"] for fold in found for part in fold.values() for row in part}
    assert texts == {row["text"] for row in rows[20:]}


def test_a_validation_split_that_is_named_brings_no_text_of_the_test_split_and_none_twice(tmp_path: Path) -> None:
    rows: Rows = [{**row, "author": index // 5} for index, row in enumerate(make_texts(120))]
    held_out: Rows = [{**row, "author": f"other {index // 7}"} for index, row in enumerate(rows[:30])]
    for name, part in {"test": rows[100:], "validation": [*held_out, *held_out[:9], *rows[100:110]]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    named = {name: str(tmp_path / f"{name}.jsonl") for name in ("validation", "test")}
    author = {row["text"]: row["author"] for row in [*rows, *held_out]}
    for fold in cut(recipe(tmp_path, rows, {"folds": 3, "groups": "author"}, data=named), tmp_path):
        texts = [row["text"] for row in chain(*fold.values())]
        assert sorted(texts) == sorted(row["text"] for row in rows[:100])
        authors = [{author[row["text"]] for row in part} for part in fold.values()]
        assert sum(map(len, authors)) == len(set.union(*authors)), "groups are those of the rows that are kept"


def test_groups_are_never_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    rows: Rows = [{**row, "author": index // 7} for index, row in enumerate(make_texts(300))]
    author = {row["text"]: row["author"] for row in rows}
    found = cut(recipe(tmp_path, rows, {"folds": 4, "groups": "author"}), tmp_path)
    assert len({row["text"] for fold in found for row in fold["test"]}) == 270
    for number, fold in enumerate(found, 1):
        authors = [{author[row["text"]] for row in part} for part in fold.values()]
        assert all(authors), f"fold {number} has no empty part"
        assert sum(map(len, authors)) == len(set.union(*authors))


def test_questions_about_one_context_are_a_group(tmp_path: Path) -> None:
    rows: Rows = [{"question": f"{i}?", "context": f"red {i // 4}", "answers": []} for i in range(120)]
    for fold in cut(recipe(tmp_path, rows, {"folds": 3}, task="question-answering"), tmp_path):
        contexts = [{row["context"] for row in part} for part in fold.values()]
        assert all(contexts)
        assert sum(map(len, contexts)) == len(set.union(*contexts)) == 27


@pytest.mark.parametrize("kind", ["token-classification", "text-classification"])
def test_groups_are_of_rows_whose_labels_are_numbers(tmp_path: Path, kind: str) -> None:
    if kind == "token-classification":
        rows: Rows = [{"tokens": [str(index), "Bonn"], "tags": [0, 1], "author": index // 5} for index in range(60)]
        changes: dict[str, Any] = {"data": {"labels": ["C"]}}
    else:
        rows = [{"text": f"text {i}", "label": [i % 2, 1, (i + 1) % 2], "author": i // 5} for i in range(60)]
        changes = {"data": {"labels": ["a", "b", "c"]}, "problem_type": "multi_label_classification"}
    found = cut(recipe(tmp_path, rows, {"folds": 2, "groups": "author"}, task=kind, **changes), tmp_path)
    assert sum(len(fold["test"]) for fold in found) == 54


def test_the_same_recipe_is_cut_alike(tmp_path: Path) -> None:
    rows: Rows = [*make_texts(120)]
    (tmp_path / "again").mkdir()
    assert cut(recipe(tmp_path, rows, {}), tmp_path) == cut(recipe(tmp_path / "again", rows, {}), tmp_path / "again")


def test_texts_without_labels_are_for_every_fold(tmp_path: Path) -> None:
    rows: Rows = [{"body": row["text"], "label": row["label"]} for row in make_texts(60)]
    unlabelled: Rows = [{"body": f"unheard of {index}"} for index in range(7)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *unlabelled]))
    named = {"text": "body", "unlabelled": str(tmp_path / "more.jsonl")}
    asked = recipe(tmp_path, rows, {"folds": 2}, data=named, teacher="b")
    cut(asked, tmp_path)
    for number in (1, 2):
        (tmp_path / f"own-{number}").mkdir()
        splits = splitting.make(folds.of(asked, tmp_path / "folds", number), tmp_path / f"own-{number}")
        assert [example.text for example in splits.unlabelled] == [row["body"] for row in unlabelled]
    before = sources.content(asked.data)
    (tmp_path / "more.jsonl").write_text(json.dumps(unlabelled[0]))
    assert sources.content(asked.data) != before


def test_a_fold_has_a_recipe_of_its_own(tmp_path: Path) -> None:
    rows: Rows = [{**row, "label": int(row["label"] == "positive")} for row in make_texts(120)]
    named = {"labels": ["negative", "positive"], "take": {"train": 80, "validation": 20, "test": 20}}
    asked = recipe(tmp_path, rows, {"folds": 2}, data=named)
    (_, second) = cut(asked, tmp_path)
    own = folds.of(asked, tmp_path / "folds", 2)
    (tmp_path / "own").mkdir()
    splits = splitting.make(own, tmp_path / "own")
    assert splits.counts() == {"train": 40, "validation": 10, "test": 50}
    assert splits.task.labels == ["negative", "positive"]
    assert [example.text for example in splits.test] == [row["text"] for row in second["test"]]


def test_columns_of_labels_name_them_in_their_order(tmp_path: Path) -> None:
    """A teacher has this order, too, and its student must match it."""
    rows: Rows = [{"text": f"text {i}", "toxic": i % 2, "insult": 1} for i in range(60)]
    asked = recipe(
        tmp_path, rows, {"folds": 2}, data={"label": ["toxic", "insult"]}, problem_type="multi_label_classification"
    )
    cut(asked, tmp_path)
    assert folds.of(asked, tmp_path / "folds", 1).data.labels == ["toxic", "insult"]


@pytest.mark.parametrize("kind", ["label ", ""])
def test_labels_with_few_rows_have_folds(tmp_path: Path, kind: str) -> None:
    """Each fold has all labels, whether they are words or numbers."""
    rows: Rows = [{"text": f"text {index}", "label": f"{kind}{index % 11}"} for index in range(110)]
    found = cut(recipe(tmp_path, rows, {"folds": 3}), tmp_path)
    for fold in found:
        assert all(len({row["label"] for row in fold[name]}) == 11 for name in ("train", "test"))
        assert fold["validation"]
    assert len(folds.load(tmp_path / "folds")["labels"]) == 11
    few = recipe(tmp_path, rows[:33], {"folds": 2}, data={"take": {"validation": 11, "test": 11}})
    with pytest.raises(InputError, match="one row of each label to train on; add rows, or use fewer folds"):
        folds.make(few, tmp_path / "few")


@pytest.mark.parametrize("kind", ["token-classification", "question-answering", "regression"])
def test_every_task_has_folds(tmp_path: Path, kind: str) -> None:
    if kind == "regression":
        rows: Rows = [{"text": row["text"], "label": len(row["text"])} for row in make_texts(60)]
        changes: dict[str, Any] = {"problem_type": kind}
    elif kind == "token-classification":
        rows = [{"tokens": [str(index), "Berlin"], "tags": ["O", "B-city"]} for index in range(60)]
        changes = {"task": kind}
    else:
        answers: Rows = [{"text": [], "answer_start": []}, {"text": ["red"], "answer_start": [0]}]
        rows = [{"question": f"{i}?", "context": f"red {i}", "answers": answers[i % 3 > 0]} for i in range(60)]
        changes = {"task": kind}
    asked = recipe(tmp_path, rows, {"folds": 2}, **changes)
    found = cut(asked, tmp_path)
    assert sum(len(fold["test"]) for fold in found) == 54
    (tmp_path / "own").mkdir()
    own = splitting.make(folds.of(asked, tmp_path / "folds", 1), tmp_path / "own")
    assert own.counts() == {name: len(part) for name, part in found[0].items()}
    assert own.task.labels == {"regression": ["score"], "token-classification": ["O", "B-city", "I-city"]}.get(kind, [])


@pytest.mark.parametrize(
    ("rows", "search", "message"),
    [
        (make_texts(40), {"folds": 30}, "30 folds need at least as many rows of each label, but .*'negative' has 18"),
        (
            [{**row, "author": index % 3} for index, row in enumerate(make_texts(60))],
            {"folds": 3, "groups": "author"},
            "3 values of 'author' are too few for 3 folds",
        ),
        (
            [{"question": f"{index}?", "context": f"red {index % 4}", "answers": []} for index in range(60)],
            {"folds": 3},
            "search.folds: 3 contexts are too few for 3 folds",
        ),
        ([*make_texts(60), {"text": "a", "label": "positive"}], {"groups": "author"}, "column 'author' is empty"),
        (
            [{**row, "author": row["label"] == "positive" or index} for index, row in enumerate(make_texts(60))],
            {"folds": 2, "groups": "author"},
            "has no training row with 'positive'",
        ),
    ],
)
def test_what_cannot_be_cut_is_told(tmp_path: Path, rows: Rows, search: dict[str, Any], message: str) -> None:
    task = "question-answering" if "context" in rows[0] else "text-classification"
    asked = recipe(tmp_path, rows, search, task=task)
    with pytest.raises(InputError, match=message):
        folds.make(asked, tmp_path / "folds")


def test_nothing_that_is_removed_is_still_in_use(nfs: None, tmp_path: Path) -> None:
    found = cut(recipe(tmp_path, [*make_texts(60)], {"folds": 2}), tmp_path)
    assert len(found) == 2
    assert sorted(path.name for path in (tmp_path / "folds").iterdir()) == ["1", "2", "folds.json"]


def test_a_kind_of_question_may_have_fewer_rows_than_there_are_folds(tmp_path: Path) -> None:
    answers: Rows = [{"text": ["red"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    rows: Rows = [{"question": f"{i}?", "context": f"red {i}", "answers": answers[i < 2]} for i in range(60)]
    take = {"validation": 0.2, "test": str(tmp_path / "test.jsonl")}
    (tmp_path / "test.jsonl").write_text(json.dumps({**rows[5], "context": "red none"}) + "\n")
    data = {"take": {"validation": take["validation"]}, "test": take["test"]}
    found = cut(recipe(tmp_path, rows, {"folds": 3}, task="question-answering", data=data), tmp_path)
    assert sum(len(fold["test"]) for fold in found) == 60


@pytest.mark.parametrize("seed", range(5))
def test_each_fold_learns_every_kind_of_entity(tmp_path: Path, seed: int) -> None:
    rows: Rows = [
        {"tokens": [str(index), "Berlin"], "tags": ["O", "B-rare" if index in (3, 7, 20) else "B-city"]}
        for index in range(60)
    ]
    (tmp_path / "test.jsonl").write_text(json.dumps({"tokens": ["a", "Berlin"], "tags": ["O", "B-city"]}) + "\n")
    changes = {
        "task": "token-classification",
        "training": {"seed": seed},
        "data": {"test": str(tmp_path / "test.jsonl")},
    }
    for fold in cut(recipe(tmp_path, rows, {"folds": 3}, **changes), tmp_path):
        rare = {name: sum(str(row).count("rare") for row in part) for name, part in fold.items()}
        assert rare["test"] == 1
        assert rare["train"] > 0


@pytest.mark.parametrize(("validation", "share"), [(0.02, 0.022), (0.2, 2 / 9), (0.4, 4 / 9), (0.6, 2 / 3)])
@pytest.mark.parametrize("groups", [None, "author"])
def test_a_fold_validates_on_the_share_of_rows_that_a_run_does(
    tmp_path: Path, validation: float, share: float, groups: str | None
) -> None:
    rows: Rows = [{**row, "author": index // 3} for index, row in enumerate(make_texts(600))]
    search = {"folds": 3} | ({} if groups is None else {"groups": groups})
    found = cut(recipe(tmp_path, rows, search, data={"take": {"validation": validation, "test": 0.1}}), tmp_path)
    for fold in found:
        validated, learned = len(fold["validation"]), len(fold["train"])
        assert validated / (validated + learned) == pytest.approx(share, abs=0.03 if share > 0.1 else 0.005)


def test_an_empty_cell_is_no_group(tmp_path: Path) -> None:
    rows = make_texts(60)
    lines = [f"{row['text']},{row['label']},{index // 3 if index != 30 else ''}" for index, row in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,author", *lines]))
    asked = recipe(tmp_path, [*rows], {"folds": 2, "groups": "author"}, data={"train": str(tmp_path / "rows.csv")})
    with pytest.raises(InputError, match=r"row 32: column 'author' is empty"):
        folds.make(asked, tmp_path / "folds")


@pytest.mark.parametrize("rows", range(580, 600))
def test_what_is_rare_is_left_to_train_on(rows: int) -> None:
    strata = np.array(["a"] * (rows - 2) + ["rare"] * 2)
    chosen = folds._part(np.arange(rows), strata, None, 3 / 17, 1)
    assert len(chosen) / rows == pytest.approx(3 / 17, abs=0.01)
    assert not {rows - 2, rows - 1} <= set(chosen.tolist())


def test_kinds_that_are_all_rare_are_cut_at_random(tmp_path: Path) -> None:
    answers: Rows = [{"text": ["red"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    rows: Rows = [{"question": f"{i}?", "context": f"red {i}", "answers": answers[i % 2]} for i in range(8)]
    (tmp_path / "test.jsonl").write_text(json.dumps({**rows[0], "context": "red none"}) + "\n")
    data = {"take": {"validation": 0.2}, "test": str(tmp_path / "test.jsonl")}
    found = cut(recipe(tmp_path, rows, {"folds": 5}, task="question-answering", data=data), tmp_path)
    assert sum(len(fold["test"]) for fold in found) == 8
