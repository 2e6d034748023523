"""A recipe is checked whole, and all faults are told at once."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from bertline.artifacts import recipe
from bertline.artifacts.errors import InputError
from bertline.artifacts.faults import choices, fields
from bertline.artifacts.recipe_schema import Recipe, Search, schema
from bertline.artifacts.task import Tokens
from tests import encoders

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """A small sound recipe; keyword arguments replace dotted keys written with double underscores."""
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "good", "label": "yes", "lang": "en"}) + "\n")

    def write(**changes: Any) -> Path:
        raw: dict[str, Any] = {
            "name": "small",
            "task": "text-classification",
            "model": str(tiny_model),
            "data": {"train": str(tmp_path / "data.jsonl")},
            "tokens": {"max_length": 32},
            "training": {"learning_rate": 1e-4},
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = raw
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return write


def faults(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        recipe.load(path, overrides)
    return caught.value.faults


def test_a_sound_recipe_has_every_default(write: Callable[..., Path]) -> None:
    loaded = recipe.load(write())
    assert loaded.training.batch_size == 32
    assert loaded.metric == "accuracy"
    assert loaded.data.take.validation == 0.1


def test_the_resolved_recipe_reads_back_the_same(write: Callable[..., Path], tmp_path: Path) -> None:
    loaded = recipe.load(write(data__where={"lang": "en"}, data__take={"train": 10}))
    recipe.save(loaded, tmp_path / "resolved.yaml")
    assert recipe.read(tmp_path / "resolved.yaml") == loaded


def test_a_date_is_kept_as_rows_have_it(write: Callable[..., Path], tmp_path: Path) -> None:
    asked = "data.where={text: 2020-01-01 00:00:00, lang: [2020-01-02, 2020-01-03T04:05:06]}"
    loaded = recipe.load(write(), [asked])
    recipe.save(loaded, tmp_path / "resolved.yaml")
    for found in (loaded, recipe.read(tmp_path / "resolved.yaml")):
        assert found.data.where == {"text": "2020-01-01 00:00:00", "lang": ["2020-01-02", "2020-01-03 04:05:06"]}


def test_all_faults_are_told_at_once(write: Callable[..., Path]) -> None:
    path = write(
        training__warmup_ratio=1.5,
        training__learning_rat=1e-4,
        training__epochs="three",
        data__label="sentiment",
        tokens__max_length=65,
        data__take={"test": 1.5},
    )
    told = faults(path)
    for key, words in {
        "training.warmup_ratio": "found float 1.5",
        "training.learning_rat": "did you mean learning_rate?",
        "training.epochs": "found str 'three'",
        "data.label": "no column 'sentiment'; it has text, label, lang",
        "tokens.max_length": "holds at most 64 tokens",
        "data.take.test": "a count of 1 or more, or a fraction between 0 and 1",
    }.items():
        assert [fault for fault in told if f": {key}: " in fault and words in fault], (key, told)
    assert len(told) == 6


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("task", "translation", "'text-classification'"),
        ("name", "../escape", "pattern"),
        ("data__train", "nowhere.csv", "no such file"),
        ("data__train", [], "found list []; expected"),
        ("data__train", ["org/hub-data"], "no such file; name a file, a glob or pkg://PACKAGE/PATH; a hub id stands"),
        ("data__train", "pkg://no_such_package/file.csv", "not installed"),
        ("data__train", "pkg://json/../../../etc/passwd", "leads out"),
        ("data__labels", ["only"], "needs two labels"),
        ("data__labels", ["no", "yes", "yes"], "each label is named once"),
        ("data__labels", [{}], "found dict {}"),
        ("data__label", ["label", "lang"], "one column per label is for multi_label_classification only"),
        ("data__label", [], "at least 1 item"),
        ("student__layers", [0, "last"], "found str 'last'"),
        ("training__class_weights", {"yes": -1.0}, "weights must be finite and not negative"),
        ("training__class_weights", {"yes": float("nan")}, "weights must be finite and not negative"),
        ("training__best", "f2", "this task is measured in accuracy, precision, recall, f1, macro_f1, "),
        ("training__best", "mse", "this task is measured in accuracy"),
        ("tokens__long", "middle", "'head', 'tail'"),
        ("tokens", {"max_length": 32, "stride": 17, "long": "windows"}, "windows of 32 tokens can share at most 16"),
        ("tokens", {"max_length": 4, "stride": 2, "long": "windows"}, "windows of 4 tokens can share at most 1"),
        ("training__class_weights", "even", "balanced"),
        ("model", "/no/such/folder", "no such model folder"),
        ("model", "~nobody_of_that_name/model", "there is no user of that name"),
        ("training__zero_stage", 4, "less than or equal to 3"),
        ("training__batch_size", 0, "greater than or equal to 1"),
        ("training__epochs", True, "found bool True"),
        ("training__freeze", {"layers": 3}, "has 2 layers"),
        ("training__learning_rate", "fast", "found str 'fast'"),
        ("training__learning_rate", "0.1", "found str '0.1'"),
        ("training__dropout", True, "found bool True"),
        ("training__class_weights", {"yes": "2"}, "found str '2'"),
        ("deepspeed", 3, "found int 3"),
    ],
)
def test_a_wrong_value_is_one_fault_with_its_key(write: Callable[..., Path], key: str, value: Any, words: str) -> None:
    (fault,) = faults(write(**{key: value}))
    assert key.replace("__", ".") in fault
    assert words in fault


def test_columns_of_labels_are_there_and_name_them(write: Callable[..., Path]) -> None:
    several = {"problem_type": "multi_label_classification"}
    loaded = recipe.load(write(data__label=["lang", "label"], **several))
    assert loaded.data.label_names == ["lang", "label"]
    told = faults(write(data__label=["lang", "lang", "dull"], data__labels=["a", "b"], **several))
    for fault in ("data.labels: found ['a', 'b']; the columns of", "each column is named once", "no column 'dull'"):
        assert any(fault in one for one in told), (fault, told)
    assert len(told) == 3


def test_the_published_schema_is_that_of_the_code(write: Callable[..., Path]) -> None:
    assert json.loads((ROOT / "docs/recipe.schema.json").read_text()) == schema()
    found = Draft202012Validator(schema())
    for path in [write(), *ROOT.glob("launch/recipes/*.yaml"), *ROOT.glob("benchmarks/*/*.yaml")]:
        found.validate(yaml.safe_load(path.read_text()))
    resolved = recipe.load(write()).model_dump()
    found.validate(resolved)
    assert not found.is_valid({**resolved, "epochs": 3})
    assert not found.is_valid({**resolved, "data": {"train": "a", "take": {"test": 0}}})
    assert not found.is_valid({**resolved, "model": None})
    del resolved["model"], resolved["teacher"]
    assert not found.is_valid(resolved)
    assert found.is_valid({**resolved, "teacher": "runs/large"})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model_name_or_path", "here that is model"),
        ("num_train_epochs", "here that is training.epochs"),
        ("training__num_train_epochs", "here that is training.epochs"),
        ("training__per_device_train_batch_size", "here that is training.micro_batch_size, for a rank"),
        ("training__gradient_accumulation_steps", "here that is training.micro_batch_size: accumulation follows"),
        ("training__metric_for_best_model", "here that is training.best"),
        ("training__fp16", "here that is training.precision: fp16"),
        ("training__bf16", "here that is training.precision: bf16"),
        ("training__lr_scheduler", "here that is training.lr_scheduler_type"),
        ("training__max_steps", "here that is training.epochs: a run is counted in whole epochs"),
        ("training__warmup_steps", "here that is training.warmup_ratio"),
        ("data__text_column", "here that is data.text"),
        ("data__label_column", "here that is data.label"),
        ("data__train_file", "here that is data.train"),
        ("tokens__max_seq_length", "here that is tokens.max_length"),
        ("training__per_device_eval_batch_size", "here that is training.micro_batch_size"),
        ("training__output_dir", "leave it out: bertline train --run DIR names the folder"),
        ("learning_rate", "did you mean training.learning_rate?"),
        ("data__layers", "did you mean student.layers or training.freeze.layers?"),
        ("training__checkpoint_every", "known are gradient_checkpointing, "),
    ],
)
def test_an_unknown_key_is_told_with_the_one_meant(write: Callable[..., Path], key: str, meant: str) -> None:
    path = write(**{key: 1})
    (fault,) = faults(path)
    assert fault.startswith(f"{path}: {key.replace('__', '.')}: unknown key; {meant}")


def test_what_stands_for_foreign_keys_is_there() -> None:
    known = set(fields._keys(Recipe))
    for foreign, words in fields.FOREIGN.items():
        assert re.split("[,:;]", words)[0] in known, foreign
    assert not {*fields.FOREIGN, *fields.NEEDLESS} & {key.rpartition(".")[2] for key in known}


def test_every_key_that_the_docs_translate_is_known() -> None:
    trainer = (ROOT / "docs/migrating.md").read_text().split("\n## ")[1]
    rows = [line.split("|")[1] for line in trainer.splitlines() if line.startswith("| ")][1:]
    told = {key for row in rows for key in re.findall(r"`(\w+)[`:]", row)}
    known = {key.rpartition(".")[2] for key in fields._keys(Recipe)}
    assert len(told) > 40
    assert told <= {*fields.FOREIGN, *fields.NEEDLESS, *known}


def recipes_in(page: str) -> list[dict[str, Any]]:
    """The recipes in the YAML blocks of a page, each with a name and a model."""
    blocks = re.findall("```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    found = [yaml.load(block, recipe._Loader) for block in blocks]
    return [{"name": "it", "model": "org/model", **raw} for raw in found if "task" in raw]


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/recipe.md", 7), ("docs/migrating.md", 1)])
def test_recipes_in_the_docs_are_without_fault(page: str, count: int) -> None:
    found = recipes_in(page)
    assert len(found) == count
    for raw in found:
        assert [*fields.of(raw), *choices.of(raw)] == []


def test_what_the_docs_show_as_defaults_is_so() -> None:
    raw, *_ = recipes_in("docs/recipe.md")
    required = {key: raw[key] for key in ("name", "task", "model")} | {"data": {"train": raw["data"]["train"]}}
    assert Recipe.model_validate(raw) == Recipe.model_validate(required)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "token-classification"}, ["data.entities: "]),
        ({"task": "token-classification", "data__text": "body"}, ["data.tokens: ", "data.tags: "]),
        ({"task": "question-answering"}, ["data.question: ", "data.context: ", "data.answers: "]),
        ({"tokens__long": "windows", "data__text_pair": "lang"}, ["tokens.long: found 'windows'; pairs"]),
        ({"tokens__long": "head+tail", "data__text_pair": "lang"}, ["tokens.long: found 'head+tail'; pairs"]),
        (
            {"task": "question-answering", "problem_type": "regression", "tokens__long": "head",
             "training__class_weights": "balanced", "data__question": "text", "data__context": "lang",
             "data__answers": "label"},
            ["problem_type: found 'regression'", "tokens.long: found 'head'", "class_weights: found 'balanced'"],
        ),
        ({"problem_type": "regression", "training__label_smoothing": 0.1}, ["training.label_smoothing: found 0.1"]),
        ({"problem_type": "regression", "data__labels": ["a", "b"]}, ["data.labels: found ['a', 'b']; this task has"]),
        (
            {"data__tags": "lang", "data__context": "text", "data__entities": "spans"},
            ["data.context: found 'text'", "data.entities: found 'spans'", "data.tags: found 'lang'"],
        ),
        (
            {"task": "token-classification", "data__text_pair": "text", "data__tokens": "text", "data__tags": "lang",
             "data__entities": "spans"},
            ["data.text_pair: found 'text'; token-classification reads no such column: leave it out"],
        ),
    ],
)  # fmt: skip
def test_what_is_not_of_the_task_is_told(write: Callable[..., Path], changes: dict[str, Any], told: list[str]) -> None:
    found = faults(write(**changes))
    assert len(found) == len(told)
    for fault, words in zip(found, told, strict=True):
        assert words in fault


def test_a_key_that_another_leaves_without_effect_is_told(write: Callable[..., Path], tiny_model: Path) -> None:
    taught: dict[str, Any] = {"teacher": str(tiny_model), "training__label_smoothing": 0.1}
    grid = {"training.epochs": [1, 2]}
    for changes, words in (
        (taught, "training.label_smoothing: found 0.1; labels have no share in the loss"),
        ({"teacher": str(tiny_model), "training__class_weights": {"yes": 2.0}}, "training.class_weights: found {'yes'"),
        (
            {"teacher": str(tiny_model), "problem_type": "regression", "distillation__temperature": 3.0},
            "distillation.temperature: found 3.0; it has no effect on a regression",
        ),
        ({"mlflow": {"experiment": "mine"}}, "mlflow.experiment: found 'mine'; without mlflow.tracking_uri"),
        ({"deepspeed": {"wandb": {"project": "mine"}}}, "deepspeed.wandb: has no effect without enabled: true"),
        ({"tokens__stride": 8}, "tokens.stride: found 8; it needs tokens.long: windows"),
        ({"search": {"grid": grid, "trials": 9}}, "search.trials: found 9; a grid tries all its combinations"),
        ({"search": {"grid": grid, "sampler": "random"}}, "search.sampler: found 'random'"),
    ):
        (fault,) = faults(write(**changes))
        assert words in fault
    for sound in (
        {**taught, "distillation__weight": 0.5},
        {**taught, "student__attention_heads": 2},
        {"tokens__stride": 8, "tokens__long": "windows"},
        {"search": {"grid": grid, "trials": 20, "sampler": "tpe"}},
        {"search": {"space": grid, "trials": 9, "sampler": "random"}},
    ):
        recipe.save(recipe.load(write(**sound)), path := write())
        recipe.load(path)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_a_first_row_without_a_label_may_be_left_out(write: Callable[..., Path], tmp_path: Path, task: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "not yet", "done": false}\n')
    assert recipe.load(write(task=task, data__train=str(rows), data__where={"done": True})).data.where == {"done": True}
    assert all("has no column" in fault for fault in faults(write(task=task, data__train=str(rows))))


def test_columns_are_looked_for_in_every_file(write: Callable[..., Path], tmp_path: Path, tiny_model: Path) -> None:
    more = tmp_path / "more.csv"
    more.write_text("text\nwell\n")
    learning: dict[str, Any] = {
        "teacher": str(tiny_model),
        "data__unlabelled": str(more),
        "data__where": {"lang": "en"},
    }
    search = {"grid": {"training.epochs": [1, 2]}}
    assert recipe.load(write(**learning, search=search), searches=True).data.unlabelled == str(more)
    (fault,) = faults(write(**learning, data__text="lang"))
    assert f"data.text: {more} has no column 'lang'; it has text" in fault
    for fault, key in zip(faults(write(**learning, data__validation=str(more))), ("label", "where.lang"), strict=True):
        assert f"data.{key}: {more} has no column" in fault
    (fault,) = faults(write(**{**learning, "data__unlabelled": str(tmp_path / "none.jsonl")}))
    assert "data.unlabelled: " in fault
    assert "no such file" in fault


def test_entities_are_marked_in_texts_or_told_by_tags(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"body": "in Paris", "entities": [], "lang": "fr"}) + "\n")
    entities: dict[str, Any] = {"task": "token-classification", "data__train": str(rows)}
    assert recipe.load(write(**entities, data__text="body")).data.text == "body"
    assert len(faults(write(**entities))) == 2
    rows.write_text(json.dumps({"text": "in Paris", "spans": []}) + "\n")
    recipe.load(write(**entities, data__entities="spans"))
    (fault,) = faults(write(**entities))
    assert "data.entities: " in fault
    assert "no column 'entities'; it has text, spans" in fault


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("asked", "columns", "told"),
    [
        ("token-classification", ["tokens", "tags"], "tokens, tags and entities are lists"),
        ("token-classification", ["text", "entities"], "tokens, tags and entities are lists"),
        ("question-answering", ["question", "context", "answers"], "answers are a list"),
    ],
)
def test_a_file_that_has_no_lists_is_told_once(
    write: Callable[..., Path], tmp_path: Path, tiny_model: Path, kind: str, asked: str, columns: list[str], told: str
) -> None:
    rows, texts = tmp_path / f"rows.{kind}", tmp_path / "texts.csv"
    separator = {"csv": ",", "tsv": "\t"}[kind]
    rows.write_text(f"{separator.join(columns)}\n{separator.join(columns)}\n")
    texts.write_text("text,question,context\na,b,c\n")
    learning = {"teacher": str(tiny_model), "data__unlabelled": str(texts)}
    (fault,) = faults(write(task=asked, data__train=str(rows), **learning))
    assert f"data.train: {rows}: {told}, and CSV and TSV have none; use " in fault


def test_the_first_row_of_json_does_not_speak_for_the_others(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    first = {"question": "a?", "context": "b", "is_impossible": True}
    rows.write_text(f"{json.dumps(first)}\n{json.dumps({**first, 'answers': [], 'lang': 'fr'})}\n")
    asked: dict[str, Any] = {"task": "question-answering", "data__train": str(rows)}
    assert recipe.load(write(**asked, data__where={"lang": "fr"})).data.where == {"lang": "fr"}
    (fault,) = faults(write(**asked, data__question="q"))
    assert "data.question: " in fault


def test_every_task_has_settings(write: Callable[..., Path]) -> None:
    settings = recipe.load(write(problem_type="regression", training__best="mse")).settings(["score"])
    assert settings.scores == ("pearson", "spearman")
    assert settings.tokens == Tokens(max_length=32, stride=0, long="head")
    entities = Recipe.model_validate(
        {"name": "a", "task": "token-classification", "model": "b", "data": {"train": "c"}}
    )
    assert entities.metric == "f1"
    assert entities.settings([]).tokens == Tokens(max_length=128, stride=32, long="windows")


def test_a_missing_section_says_what_belongs_there(write: Callable[..., Path]) -> None:
    path = write()
    raw = yaml.safe_load(path.read_text())
    del raw["data"], raw["model"]
    path.write_text(yaml.safe_dump(raw))
    assert [fault.split(": ", 1)[1].split(";")[0] for fault in faults(path)] == ["model: missing", "data: missing"]
    assert faults(path)[0].endswith("or run. Required, unless a teacher is named.")


def test_overrides_reach_any_key(write: Callable[..., Path]) -> None:
    loaded = recipe.load(write(), ["training.learning_rate=3e-5", "training.freeze.layers=1", "data.labels=[a, b]"])
    assert loaded.training.learning_rate == 3e-5
    assert loaded.training.freeze.layers == 1
    assert loaded.data.labels == ["a", "b"]


@pytest.mark.parametrize("override", ["training.learning_rate", "=3", "name.first=x", "training..seed=1"])
def test_an_override_that_is_none_is_refused(write: Callable[..., Path], override: str) -> None:
    assert override.split("=")[0] in faults(write(), override)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", "not a mapping"),
        ("name: [", "not readable as YAML"),
        ("", "nothing"),
        ("name: a\ntask: b\nname: c", "key 'name' occurs twice in \"<unicode string>\", line 3"),
        ("name: 2024-02-30", "day is out of range"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    assert words in faults(path)[0]


def test_numbers_are_read_as_people_write_them(write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().replace("0.0001", "2e-5"))
    assert recipe.load(path).training.learning_rate == 2e-5


@pytest.mark.parametrize("name", ["2e-5-baseline", "9e107d9d", "1e5", "1.5", "3", "2024-01-01", "true"])
def test_a_name_like_a_number_is_read_back_as_written(write: Callable[..., Path], tmp_path: Path, name: str) -> None:
    path = write()
    path.write_text(path.read_text().replace("name: small", f'name: "{name}"'))
    loaded = recipe.load(path)
    recipe.save(loaded, tmp_path / "resolved.yaml")
    assert recipe.read(tmp_path / "resolved.yaml") == loaded
    assert loaded.name == name


def test_a_mapping_may_be_merged_into_another(write: Callable[..., Path]) -> None:
    path = write()
    merging = "training: {freeze: &inner {<<: &base {layers: 2}, layers: 1}}\ndeepspeed: {a: {<<: *inner, b: 2}}\n"
    path.write_text(re.sub(r"training:\n.*\n", merging, path.read_text()))
    assert recipe.load(path).training.freeze.layers == 1
    assert recipe.load(path).deepspeed == {"a": {"layers": 1, "b": 2}}


def test_what_only_begins_like_a_number_is_a_name(write: Callable[..., Path]) -> None:
    path = write()
    assert recipe.load(path, ["name=2e-5-baseline"]).name == "2e-5-baseline"
    assert "is not YAML" in faults(path, "name=2024-02-30")[0]


def test_layers_that_are_one_are_not_told_apart(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = encoders.make("albert", tmp_path / "albert")
    told = faults(write(model=str(folder), training__freeze={"layers": 1}, training__layer_decay=0.9))
    assert [fault.split(": ")[1] for fault in told] == ["training.freeze.layers", "training.layer_decay"]


def test_what_is_searched_is_checked_with_all_else(write: Callable[..., Path]) -> None:
    grid = {
        "training.learning_rat": [1e-4],
        "training.batch_size": [0, 16, "many"],
        "training.epochs.first": [1],
        "training.seed": [1, 2],
        "training": [{"best": "accuracy"}, {"epochs": 2}],
        "data.text": ["text"],
        "tokens.max_length": {"low": 16, "high": 32},
    }
    told = faults(write(search={"grid": grid, "folds": 1, "groups": "author"}, training__warmup_ratio=1.5))
    for words in (
        "search.folds: found int 1",
        "search.groups: ",
        "search.grid.training.learning_rat: unknown key; did you mean learning_rate?",
        "search.grid.training.batch_size: found int 0; expected greater than or equal to 1",
        "search.grid.training.batch_size: found str 'many'",
        "search.grid.training.epochs: found dict",
        "search.grid.training.seed: training.seed must be the same in all trials",
        "search.grid.training: training.seed must be the same in all trials",
        "search.grid.data.text: data must be the same in all trials",
        "search.grid.tokens.max_length: found {'high': 32, 'low': 16}; expected a list of values",
        "training.warmup_ratio: found float 1.5",
    ):
        assert [fault for fault in told if f": {words}" in fault], (words, told)
    assert len(told) == 11


def test_trials_that_are_compared_by_a_loss_have_the_same_loss(write: Callable[..., Path]) -> None:
    grid = {"training.label_smoothing": [0.0, 0.1], "training.class_weights.no": [1.0, 2.0]}
    told = faults(write(search={"grid": grid}, training__best="loss"))
    assert [fault.split(": ")[2].partition(" must be the same in all trials")[0] for fault in told] == [
        "training.class_weights", "training.label_smoothing",
    ]  # fmt: skip
    assert all(fault.endswith("or compare by another training.best than loss") for fault in told)
    recipe.load(write(search={"grid": grid}, training__best="accuracy"), searches=True)


@pytest.mark.parametrize(
    ("long", "grid", "fixed"),
    [
        ("head", {"tokens.long": ["head", "tail", "head+tail"]}, []),
        ("head", {"tokens.long": ["head", "windows"]}, ["tokens.long", "tokens.max_length"]),
        ("windows", {"tokens.long": ["head", "tail"]}, ["tokens.long", "tokens.max_length"]),
        ("windows", {}, ["tokens.max_length"]),
        ("windows", {"model": ["another"]}, ["model", "tokens.max_length"]),
    ],
)
def test_a_loss_over_windows_is_of_as_many_in_all_trials(
    write: Callable[..., Path], long: str, grid: dict[str, Any], fixed: list[str]
) -> None:
    search = {"grid": {"tokens.max_length": [16, 24], **grid}}
    path = write(search=search, training__best="loss", tokens={"max_length": 16, "long": long})
    if fixed:
        told = [fault.split(": ")[2].partition(" must be the same in all trials")[0] for fault in faults(path)]
        assert told == fixed
        path = write(search=search, training__best="accuracy")
    recipe.load(path, searches=True)


def test_a_section_with_windows_is_no_value_of_a_search_by_loss(write: Callable[..., Path]) -> None:
    sections = [{"max_length": 16, "long": long} for long in ("head", "windows")]
    (told,) = faults(write(search={"grid": {"tokens": sections}}, training__best="loss"))
    assert ": search.grid.tokens: tokens.long must be the same in all trials" in told
    recipe.load(write(search={"grid": {"tokens": sections[:1]}}, training__best="loss"), searches=True)


def test_of_an_unknown_task_no_windows_are_told(write: Callable[..., Path]) -> None:
    (told,) = faults(write(task="sorting", search={"grid": {"tokens.max_length": [16, 24]}}, training__best="loss"))
    assert ": task: found " in told


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"grid": {"training.epochs": [1]}, "space": {"training.epochs": [1]}}, "found grid and space; give one"),
        ({}, "nothing to try; give grid or space"),
        ({"space": {"training.epochs": []}}, "found []; expected a list of values, or {low"),
        ({"space": {"training.epochs": {"low": 3, "high": 1}}}, "found {'high': 1, 'low': 3}; expected"),
        ({"space": {"training.dropout": {"low": 0, "high": 0.5, "log": True}}}, "expected a list of values, or {low"),
        ({"space": {"training.max_grad_norm": {"low": 0.1, "high": math.inf}}}, "expected a list of values, or {low"),
        (
            {"grid": {"training.freeze.layers": [0, 1], "training.freeze": [{"embeddings": True}]}},
            "search: training.freeze and training.freeze.layers: one is part of the other",
        ),
        ({"space": {"training.epochs": {"low": 1, "high": 2.5}}}, "search.space.training.epochs: found float 2.5"),
        ({"space": {"training.dropout": {"low": 0.1, "high": 1.5}}}, "search.space.training.dropout: found float 1.5"),
        (
            {"grid": {"tokens.max_length": [32, 64, 128], "training.batch_size": [16, 32]}},
            "search: tokens.max_length=128: tokens.max_length: found 128; ",
        ),
        (
            {"grid": {"tokens.long": ["windows"], "tokens.max_length": [64, 32], "tokens.stride": [16, 32]}},
            "search: tokens.max_length=32, tokens.stride=32: tokens.stride: found 32; windows of 32 tokens",
        ),
    ],
)
def test_a_search_that_cannot_be(write: Callable[..., Path], search: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe.load(write(search=search), searches=True)
    (fault,) = caught.value.faults
    assert words in fault
    if not search:
        assert recipe.load(write(search=search)).search == Search()


@pytest.mark.parametrize("key", ["1", "on"])
def test_a_key_that_yaml_reads_as_no_string_is_one_fault(write: Callable[..., Path], key: str) -> None:
    path = write()
    path.write_text(f"{path.read_text()}{key}: x\n")
    (fault,) = faults(path)
    assert fault.startswith(f"{path}: ")
    (fault,) = faults(write(search={"grid": {yaml.safe_load(key): [1], "training.epochs": [1, 2]}}))
    assert fault.startswith(f"{path}: search.grid: found")


def test_a_recipe_of_another_version_is_told_where_a_run_is_gone_on_with(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"recipe\.yaml: training\.later_key: unknown key"):
        recipe.read(write(training__later_key=1))


def test_a_trial_is_the_recipe_with_other_settings(write: Callable[..., Path]) -> None:
    grid = {"training.freeze.layers": [0, 1], "training.class_weights.no": [2.0]}
    loaded = recipe.load(write(search={"grid": grid}), searches=True)
    trial = recipe.with_settings(loaded, {"training.freeze.layers": 1, "training.class_weights.no": 2.0})
    assert recipe.differences(trial, loaded) == {
        "training.class_weights.no": (2.0, None),
        "training.freeze.layers": (1, 0),
    }


def test_every_field_describes_itself_with_its_default() -> None:
    def fields(section: type[BaseModel]) -> Any:
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from fields(field.annotation)
            else:
                yield f"{section.__name__}.{name}", field

    for name, field in fields(Recipe):
        assert field.description, name
        assert field.is_required() or "Default: " in field.description, name


@pytest.mark.parametrize("path", sorted((ROOT / "launch" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_sound(path: Path) -> None:
    raw = yaml.load(path.read_text(), recipe._Loader)
    Recipe.model_validate(raw)
    assert raw["name"] == path.stem
