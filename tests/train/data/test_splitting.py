"""Reading, filtering, labeling and splitting examples, and the errors for unusable data."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from bertline.artifacts import files
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Data, Recipe
from bertline.artifacts.run import DataFiles, RunFolder
from bertline.tasks.task import Example, Task
from bertline.train.data import sources, splitting
from tests.conftest import make_texts

DATA = Data(train="x")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(
    folder: Path, rows: list[dict[str, Any]], seed: int = 1, recipe: Mapping[str, Any] = {}, **settings: Any
) -> splitting.Splits:
    path = write(folder / "rows.jsonl", rows)
    raw = {"name": "a", "task": "text-classification", "model": "b", "data": {"train": str(path), **settings}, **recipe}
    return splitting.make(Recipe.model_validate({**raw, "training": {"seed": seed}}), Path(mkdtemp(dir=folder)))


def make_reader(data: Data, problem: str | None = None) -> Task:
    raw = {"name": "a", "task": "text-classification", "model": "b", "data": data, "problem_type": problem}
    return splitting.reader(Recipe.model_validate(raw))


def test_splits_are_stratified_disjoint_and_repeatable(tmp_path: Path) -> None:
    rows = make_texts(200)
    rows += [
        {**row, "text": f"again {row['text']}"} for row in rows if row["label"] == "positive"
    ]  # 2 of 3 are positive
    take = {"train": 150, "validation": 0.1, "test": 60}
    splits = load(tmp_path, rows, take=take)
    assert splits.counts() == {"train": 150, "validation": 30, "test": 60}
    for examples in (splits.train, splits.validation, splits.test):
        assert Counter(example.gold for example in examples)["positive"] == len(examples) * 2 // 3
    texts = [example.text for example in (*splits.train, *splits.validation, *splits.test)]
    assert len(set(texts)) == len(texts)
    assert splits.fingerprint == load(tmp_path, rows, take=take).fingerprint
    assert splits.fingerprint != load(tmp_path, rows, seed=2, take=take).fingerprint


@pytest.mark.parametrize(
    ("take", "train"),
    [
        ({"train": 0.8, "validation": 0.1, "test": 0.1}, None),
        ({"train": 0.7, "validation": 0.15, "test": 0.15}, None),
        ({"train": 0.75, "validation": 0.1, "test": 0.1}, 0.75),
        ({"train": 70, "validation": 10, "test": 10}, 70),
        ({"train": 3, "validation": 10, "test": 10}, 3),
    ],
)
def test_any_number_of_rows_can_be_cut(tmp_path: Path, take: dict[str, Any], train: float | None) -> None:
    """Also where rounded fractions come to a row more than there are, or where few rows are left out."""
    labels = ["negative", "positive", "neutral"]
    for count in range(91, 121):
        rows = [{**row, "label": labels[index % 3]} for index, row in enumerate(make_texts(count))]
        splits = load(tmp_path, rows, take=take)
        held_out = len(splits.validation) + len(splits.test)
        expected = train if isinstance(train, int) else count - held_out if train is None else round(train * count)
        assert len(splits.train) == expected
        assert {example.gold for example in splits.train} == set(labels)


def test_no_row_for_training_is_refused(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": float(number)} for number, row in enumerate(make_texts(40))]
    with pytest.raises(InputError, match="too few: 4 for validation, 4 for test, 0 for train; take"):
        load(tmp_path, rows, recipe={"problem_type": "regression"}, take={"train": 0.01})


def test_held_out_splits_are_written_with_names(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": int(row["label"] == "positive")} for row in make_texts(60)]
    splits = load(tmp_path, rows, labels=["negative", "positive"])
    splits.save(RunFolder(tmp_path / "run"))
    read = splits.task.read_file(tmp_path / "run/splits/test.jsonl")
    assert read == list(splits.test)
    assert {example.gold for example in read} == {"negative", "positive"}


def test_a_column_for_each_label_names_the_labels_in_its_order(tmp_path: Path) -> None:
    names = ["sad", "dull", "long"]
    rows = [{"text": f"text {i}", "sad": 1, "dull": i % 2, "long": i % 3 == 0} for i in range(60)]
    several = {"problem_type": "multi_label_classification"}
    splits = load(tmp_path, rows, label=names, recipe=several)
    assert splits.task.labels == names
    assert all(example.gold[0] == "sad" for example in splits.train)
    assert {name for example in splits.train for name in example.gold} == set(names)
    with pytest.raises(InputError, match=r"data\.label: no training row has the label 'bad'"):
        load(tmp_path, [{**row, "bad": 0} for row in rows], label=[*names, "bad"], recipe=several)


def test_calibration_is_on_evenly_spaced_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "CALIBRATION", 25)  # of 48
    splits = load(tmp_path, make_texts(60))
    splits.save(RunFolder(tmp_path / "run"))
    read = splits.task.read_file(tmp_path / "run/splits/calibration.jsonl")
    places = [splits.train.index(example) for example in read]
    assert (len(places), places[0], places[-1]) == (25, 0, 46)


def test_duplicates_never_reach_training(tmp_path: Path) -> None:
    rows = make_texts(60)
    assert load(tmp_path, rows + rows[:7]).duplicates == 7
    held_out = write(tmp_path / "test.jsonl", rows[:10])
    splits = load(tmp_path, rows, test=str(held_out))
    assert (splits.duplicates, splits.leaked) == (10, 10)
    assert load(tmp_path, rows + rows[:7]).leaked == 0
    assert [example.text for example in splits.test] == [row["text"] for row in rows[:10]]


def test_texts_that_differ_by_blanks_are_duplicates(tmp_path: Path) -> None:
    rows = make_texts(60)
    blanks = [{**row, "text": f" {row['text'].replace(' ', '  ')}\n"} for row in rows[:7]]
    assert load(tmp_path, rows + blanks).duplicates == 7


def test_duplicates_with_another_label_are_counted(tmp_path: Path) -> None:
    rows = make_texts(60)
    others = [{**row, "label": "negative"} for row in rows[:8]]  # every second one already has this label
    splits = load(tmp_path, rows + others)
    assert (splits.duplicates, splits.contradicting) == (8, 4)
    assert splits.left_out == "8 rows left out as duplicates, 4 of them labelled differently from the row that is kept"
    held_out = write(tmp_path / "test.jsonl", [*others, *rows[20:30]])
    assert load(tmp_path, rows, test=str(held_out)).contradicting == 4
    assert load(tmp_path, rows + rows[:7]).contradicting == 0


def test_offsets_that_blanks_shift_contradict_nothing() -> None:
    def entity(text: str, start: int, end: int) -> Example:
        return Example(text, None, [{"start": start, "end": end, "label": "PER"}])

    def answer(context: str, text: str, start: int) -> Example:
        return Example("Who?", context, [{"text": text, "start": start}])

    kept = [entity("I saw Al Z", 6, 10), answer("I saw Al Z", "Al Z", 6)]
    same = [entity("I  saw Al  Z", 7, 12), answer("I  saw Al  Z", "Al  Z", 7)]
    other = [entity("I  saw Al  Z", 7, 9), answer("I  saw Al  Z", "Al", 7)]
    found = splitting._without_duplicates([*same, *other], [kept])
    assert (found.duplicates, found.contradicting) == (4, 2)


def test_a_label_of_held_out_rows_alone_is_told_with_its_row(tmp_path: Path) -> None:
    rows = [{**row, "source": "ab"[number % 2]} for number, row in enumerate(make_texts(12, 9))]
    rows[6]["label"] = rows[8]["label"] = "neutral"
    held_out = write(tmp_path / "test.jsonl", rows)
    train = [{**row, "source": "a"} for row in make_texts(60)]
    for where in ({}, {"source": "a"}):
        with pytest.raises(InputError, match=r"test.jsonl line 7: no training row has the label 'neutral'; give train"):
            load(tmp_path, train, test=str(held_out), where=where)


def test_a_training_file_that_is_held_out_as_well_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.train: all 60 training rows also appear in test; name other rows"):
        load(tmp_path, make_texts(60), test=str(tmp_path / "rows.jsonl"))


def test_rows_that_are_few_since_the_rest_are_duplicates_are_told(tmp_path: Path) -> None:
    rows = make_texts(5)
    with pytest.raises(InputError, match=r"data.take.* 5 .*; 295 of 300 rows are left out as duplicates$"):
        load(tmp_path, rows * 60)


def test_many_numbers_as_labels_are_most_likely_measured(tmp_path: Path) -> None:
    rows = [{**row, "label": str(number / 4)} for number, row in enumerate(make_texts(60))]
    with pytest.raises(InputError, match=r"the 60 labels are numbers: if .* set problem_type: regression$"):
        load(tmp_path, rows)


def test_rows_without_a_label_are_left_out_as_the_error_says(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *make_texts(60),
        {"text": "who knows", "label": None},
        {"text": "nobody", "label": ""},
    ]
    with pytest.raises(InputError, match=r"rows that have one by data\.where: \{label: \[NAME, \.\.\.\]\}"):
        load(tmp_path, rows)
    assert sum(load(tmp_path, rows, where={"label": ["negative", "positive"]}).counts().values()) == 60


def test_where_keeps_rows(tmp_path: Path) -> None:
    rows = [{**row, "source": ("a", "b", 3)[index % 3]} for index, row in enumerate(make_texts(120))]
    assert sum(load(tmp_path, rows, where={"source": ["a", 3]}).counts().values()) == 80
    with pytest.raises(InputError, match=r"no row of .* matches"):
        load(tmp_path, rows, where={"source": "c"})
    for value in ("a", None):
        with pytest.raises(InputError, match=r"data\.where: .* has no column 'sauce'; it has text, label, source"):
            load(tmp_path, rows, where={"sauce": value})


def test_a_value_of_where_that_no_row_has_is_told(tmp_path: Path) -> None:
    rows = [{**row, "language": ("en", "no")[index % 3 > 1], "id": "007"} for index, row in enumerate(make_texts(60))]
    other = write(tmp_path / "test.jsonl", [{**row, "language": "sv"} for row in rows[:9]])
    assert load(tmp_path, rows, test=str(other), where={"language": ["en", "sv"], "id": "007"}).counts()["test"] == 9
    with pytest.raises(InputError) as caught:
        load(tmp_path, rows, test=str(other), where={"language": ["en", False, "sv"], "id": ["007", 7]})
    assert [fault.partition(";")[0] for fault in caught.value.faults] == [
        "data.where.language: no row has False", "data.where.id: no row has 7",
    ]  # fmt: skip


def test_pairs(tmp_path: Path) -> None:
    rows = [{**row, "other": "it was"} for row in make_texts(60)]
    assert load(tmp_path, rows, text_pair="other").train[0].text_pair == "it was"


def questions(contexts: int) -> list[dict[str, Any]]:
    """One to nine questions per context, in order; every third context answers none, the next half, the next all."""
    return [
        {
            "question": f"{number}?",
            "context": f"red {context}",
            "answers": [{"text": "red", "start": 0}] if context % 3 == 2 or (context % 3 and number % 2) else [],
        }
        for context in range(contexts)
        for number in range(context * 7 % 9 + 1)
    ]


def test_questions_about_one_context_are_cut_together(tmp_path: Path) -> None:
    rows, recipe = questions(90), {"task": "question-answering"}
    splits = load(tmp_path, rows, recipe=recipe, take={"validation": 60, "test": 0.2})
    contexts = [{one.text_pair for one in part} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == 90
    counts = splits.counts()
    assert sum(counts.values()) == len(rows)
    assert abs(counts["validation"] - 60) <= 4
    assert abs(counts["test"] - 0.2 * len(rows)) <= 4
    share = sum(bool(row["answers"]) for row in rows) / len(rows)
    for part in (splits.validation, splits.test):
        assert sum(bool(one.gold) for one in part) / len(part) == pytest.approx(share, abs=0.1)
    few = load(tmp_path, rows, recipe=recipe, take={"train": 50, "validation": 60, "test": 90})
    assert few.counts()["train"] == 50
    assert (
        few.fingerprint
        == load(tmp_path, rows, recipe=recipe, take={"train": 50, "validation": 60, "test": 90}).fingerprint
    )
    message = r"data\.take\.test: the \d remaining rows have one context, .* or name data\.test"
    with pytest.raises(InputError, match=message):
        load(tmp_path, questions(2), recipe=recipe)


def about(*contexts: int) -> list[dict[str, Any]]:
    """The given number of questions about each context, every second with an answer."""
    return [
        {
            "question": f"{number}?",
            "context": f"red {context}",
            "answers": [{"text": "red", "start": 0}] if number % 2 else [],
        }
        for context, count in enumerate(contexts)
        for number in range(count)
    ]


def test_one_question_that_whole_contexts_leave_over_is_left_out(tmp_path: Path) -> None:
    sizes = {"train": 19, "validation": 8, "test": 8}
    assert load(tmp_path, about(*[4] * 9), recipe={"task": "question-answering"}, take=sizes).counts() == sizes


@pytest.mark.parametrize(
    ("contexts", "sizes", "cut"),
    [
        ((200, 10, 10), {"validation": 0.1, "test": 0.1}, (10, 10)),
        ((200, 30, 20, 8), {"validation": 10, "test": 10}, (8, 20)),
        ((200, *[4] * 30), {"validation": 32, "test": 32}, (32, 32)),
        ((200, 40, 40), {"validation": 10, "test": 10}, (40, 40)),
    ],
)
def test_a_context_with_most_of_the_questions_is_for_training(
    tmp_path: Path, contexts: tuple[int, ...], sizes: dict[str, float], cut: tuple[int, int]
) -> None:
    for seed in range(4):
        splits = load(tmp_path, about(*contexts), seed, recipe={"task": "question-answering"}, take=sizes)
        assert (len(splits.validation), len(splits.test), len(splits.train)) == (*cut, sum(contexts) - sum(cut))


def test_labels_come_from_the_data_where_absent(tmp_path: Path) -> None:
    rows = [{**row, "label": f"{row['label']}{index % 3}"} for index, row in enumerate(make_texts(120))]
    assert load(tmp_path, rows).task.labels == [f"{n}{i}" for n in ("negative", "positive") for i in range(3)]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"label": "neutral"}, {"labels": ["negative", "positive"]}, r"rows.jsonl line 8: unknown label 'neutral'"),
        ({"label": None}, {}, r"rows.jsonl line 8: no label in column 'label'"),
        ({"text": 3.5}, {}, r"rows.jsonl line 8: column 'text' holds a float \(3.5\)"),
        ({"label": "neutral"}, {}, r"add rows of the rarest, 'neutral' \(1\), name data\.validation"),
        (
            {},
            {"take": {"train": 50}},
            r"60 rows without duplicates are too few: 6 for validation, 6 for test, 50 for train",
        ),
        ({}, {"labels": ["negative", "positive", "neutral"]}, r"no training row has the label 'neutral'"),
    ],
)
def test_data_that_will_not_do(tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    rows: list[dict[str, Any]] = [*make_texts(60)]
    rows[7] = {**rows[7], **change}
    with pytest.raises(InputError, match=message):
        load(tmp_path, rows, **settings)


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, [{"text": row["text"], "label": None} for row in make_texts(60)])
    assert len(caught.value.faults) == sources.MOST_FAULTS + 1
    assert caught.value.faults[-1] == "… and 50 more rows like these"


def test_one_label_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have one label, 'positive'"):
        load(tmp_path, [row for row in make_texts(60) if row["label"] == "positive"])


def test_several_labels_of_which_no_row_has_any_are_no_task(tmp_path: Path) -> None:
    rows = [{**row, "label": ""} for row in make_texts(60)]
    with pytest.raises(InputError, match=r"data\.label: none of the rows kept has a label"):
        load(tmp_path, rows, recipe={"problem_type": "multi_label_classification"})


@pytest.mark.parametrize(
    ("labels", "expected"), [(None, "pos"), (["pos", "neg"], "pos"), (["negative", "positive"], 1)]
)
def test_rows_of_the_hub_and_of_a_file_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str] | None, expected: str | int
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": ["good", "bad"], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set/train.parquet")
    data = Data(train="x", labels=labels)
    found = list(sources.hub_rows(str(tmp_path / "set"), "train", data, make_reader(data)))
    assert found[0] == (f"{tmp_path}/set train row 1", {"text": "good", "label": expected})
    path = tmp_path / "set/train.parquet"
    in_file = list(sources.rows(str(path), "train", data, make_reader(data)))
    assert in_file[0] == (f"{path} row 1", {"text": "good", "label": expected})


def write_classes(path: Path) -> Path:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": [f"text {i}" for i in range(60)], "label": [i % 2 for i in range(60)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_numbers_that_a_file_names_are_quantities_in_a_regression(tmp_path: Path) -> None:
    path = write_classes(tmp_path / "a.parquet")
    _, (_, row) = list(sources.rows(str(path), "train", DATA, make_reader(DATA, "regression")))[:2]
    assert row["label"] == 1


def test_numbers_that_a_file_names_are_chosen_by_name(tmp_path: Path) -> None:
    path, data = write_classes(tmp_path / "a.parquet"), Data(train="x", where={"label": [0]})
    with pytest.raises(InputError, match=r"no row of .* matches {'label': \[0\]}; the last row has {'label': 'pos'}"):
        list(sources.examples(str(path), "train", data, make_reader(data), set()))


def test_the_commit_of_a_hub_data_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client names the folder of its cached files after the commit."""
    kept = tmp_path / "org___set/default/0.0.0" / ("a" * 40) / "set-train.arrow"
    files.write_text(kept, "rows")
    monkeypatch.setattr(sources, "_hub", lambda place, split: SimpleNamespace(cache_files=[{"filename": str(kept)}]))
    found = sources.provenance(Data(train="org/set"))
    assert found == {"train": DataFiles(revision="a" * 40, files=[files.entry(kept)])}


@pytest.mark.parametrize("unknown", [-1, None])
def test_a_hub_row_without_a_label_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: int | None
) -> None:
    """GLUE's test splits have such rows."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": ["good", "bad"], "label": [1, unknown]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set/train.parquet")
    data = Data(train="x")
    read = make_reader(data).read
    (where, first), (other, second) = sources.hub_rows(str(tmp_path / "set"), "train", data, make_reader(data))
    assert read(first, sources.columns(data), where).gold == "pos"
    with pytest.raises(InputError, match="train row 2: no label in column 'label'"):
        read(second, sources.columns(data), other)


@pytest.mark.parametrize("key", ["train", "unlabelled"])
def test_a_hub_data_set_that_is_not_there(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=rf"data.{key}: .*nowhere"):
        list(sources.hub_rows(str(tmp_path / "nowhere"), key, DATA, make_reader(DATA)))


def test_a_hub_data_set_that_is_a_script_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/set.py").write_text("")
    with pytest.raises(InputError, match=r"data.train: .*scripts are no longer supported"):
        list(sources.hub_rows(str(tmp_path / "set"), "train", DATA, make_reader(DATA)))


def test_unlabelled_texts_are_of_a_hub_data_sets_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.Dataset.from_dict({"text": ["good"]}).to_parquet(tmp_path / "set/train.parquet")
    ((_, row),) = sources.hub_rows(str(tmp_path / "set"), sources.UNLABELLED, DATA, make_reader(DATA))
    assert row == {"text": "good"}
