"""Data is read and tokenized once, repeated only when an input has changed, and never held in memory."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.tasks.tokens import Tokenizer
from bertline.train import preemption
from bertline.train.data import mapped, prepared, splitting
from bertline.train.progress import Progress
from tests.conftest import make_model, make_texts

SILENT = Progress(speaks=False)


def write(folder: Path, model: Path, rows: list[dict[str, Any]], name: str = "rows") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {"name": "a", "task": "text-classification", "model": str(model), "tokens": {"max_length": 16}}
    raw["data"] = {"train": str(folder / f"{name}.jsonl")}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


def name_of(recipe: Path, model: Path, *sets: str) -> str:
    return prepared.folder_of(recipes.load(recipe, sets), model, Path("cache")).name


def test_a_second_run_finds_what_the_first_has_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load(write(tmp_path, model, make_texts(60)))
    folder = prepared.prepare(recipe, model, tmp_path / "cache", SILENT)
    before = prepared.load(recipe, folder)
    for kind, method in ((Tokenizer, "encode"), (splitting, "make")):
        monkeypatch.setattr(kind, method, forbidden)
    faster = recipe.model_copy(update={"training": recipe.training.model_copy(update={"learning_rate": 1e-3})})
    assert prepared.prepare(faster, model, tmp_path / "cache", SILENT) == folder
    after = prepared.load(faster, folder)
    assert list(after.train.examples) == list(before.train.examples)
    assert after.splits.fingerprint == before.splits.fingerprint
    assert after.splits.counts() == {"train": 48, "validation": 6, "test": 6}
    tokenizer = after.splits.task.tokenizer(model)
    inputs = tokenizer.pad(after.test.windows[:6])
    assert tokenizer.decode(after.test.windows[0]).startswith("[CLS] ")
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape


def test_who_is_asked_to_stop_tokenizes_no_further(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load(write(tmp_path, model, make_texts(60)))
    monkeypatch.setattr(Tokenizer, "encode", forbidden)
    monkeypatch.setattr(preemption, "asked", preemption.Flag())
    preemption.asked.set()
    with pytest.raises(PreemptedError, match="stopped as asked"):
        prepared.prepare(recipe, model, tmp_path / "cache", SILENT)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".gitignore"]


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("it had been made before")


CHANGES: dict[str, Callable[[Path, Path], str]] = {
    "a row": lambda folder, model: name_of(write(folder, model, make_texts(61)), model),
    "max_length": lambda folder, model: name_of(folder / "recipe.yaml", model, "tokens.max_length=17"),
    "seed": lambda folder, model: name_of(folder / "recipe.yaml", model, "training.seed=7"),
    "take": lambda folder, model: name_of(folder / "recipe.yaml", model, "data.take.test=7"),
    "tokenizer": lambda folder, model: name_of(folder / "recipe.yaml", other_tokenizer(model, folder / "other")),
}


def other_tokenizer(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"good"', '"well"'))
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_data_makes_it_anew(model: Path, tmp_path: Path, change: str) -> None:
    before = name_of(write(tmp_path, model, make_texts(60)), model)
    assert before == name_of(tmp_path / "recipe.yaml", model)
    assert CHANGES[change](tmp_path, model) != before


@pytest.mark.parametrize("sets", ["training.learning_rate=1e-3", "training.batch_size=2", "name=b"])
def test_what_does_not_change_the_data_does_not(model: Path, tmp_path: Path, sets: str) -> None:
    before = name_of(write(tmp_path, model, make_texts(60)), model)
    assert name_of(tmp_path / "recipe.yaml", model, sets) == before
    assert name_of(write(tmp_path / "moved", model, make_texts(60), name="other"), model) == before


def test_data_that_will_not_do_leaves_nothing(model: Path, tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, model, [{"text": 3, "label": "a"}, *make_texts(60)]))
    with pytest.raises(InputError, match="line 1: column 'text' holds a int"):
        prepared.prepare(recipe, model, tmp_path / "cache", SILENT)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".gitignore"]


def test_a_full_disk_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.Examples, "write", full)
    recipe = recipes.load(write(tmp_path, model, make_texts(60)))
    with pytest.raises(InputError, match=r"could not be written .*No space left on device.*; make room"):
        prepared.prepare(recipe, model, tmp_path / "cache", SILENT)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".gitignore"]


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path, model: Path) -> None:
    recipe = recipes.load(write(tmp_path, model, make_texts(60)))
    with pytest.raises(InputError, match="all nodes of a run must share the disk"):
        prepared.load(recipe, tmp_path / "elsewhere")


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """With 20 MB more data, preparing it and reading it back takes less than a third of that in memory."""
    model = make_model(tmp_path / "model")
    few, many = (growth(tmp_path / str(megabytes), model, megabytes) for megabytes in (4, 24))
    assert many - few < 6.5


def growth(folder: Path, model: Path, megabytes: int) -> float:
    """The peak growth in megabytes of a process that prepares so much data."""
    folder.mkdir()
    path, text = folder / "rows.jsonl", "word " * 70 + "x" * 2700  # more words would only take longer to tokenize
    with path.open("w") as stream:
        for number in range(megabytes * 1_000_000 // len(text)):
            stream.write(json.dumps({"text": f"{number} {text}", "label": "ab"[number % 2]}) + "\n")
    recipe = {"name": "a", "task": "text-classification", "model": str(model), "data": {"train": str(path)}}
    answer = subprocess.run(
        [sys.executable, "-c", GROWTH, json.dumps(recipe), str(model), str(folder / "cache")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(answer.stdout.splitlines()[-1])


GROWTH = """
import json, re, sys, threading
from pathlib import Path
from bertline.artifacts.recipe_schema import Recipe
from bertline.train.data import prepared
from bertline.train.progress import Progress
import sklearn.model_selection

def private():
    return int(re.search(r"RssAnon:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

recipe, (model, cache) = Recipe.model_validate(json.loads(sys.argv[1])), map(Path, sys.argv[2:])
before, most, done = private(), 0, threading.Event()
def watch():
    global most
    while not done.wait(0.02):
        most = max(most, private())
watcher = threading.Thread(target=watch)
watcher.start()
prepared.TEXTS = 64
ready = prepared.load(recipe, prepared.prepare(recipe, model, cache, Progress(speaks=False)))
tokens = sum(int(window.input_ids.sum() > 0) for window in ready.train.windows)
done.set()
watcher.join()
print(most - before)
"""


def test_windows_say_which_text_they_are_of(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "TEXTS", 5)
    recipe = recipes.load(write(tmp_path, model, make_texts(60)))
    ready = prepared.load(recipe, prepared.prepare(recipe, model, tmp_path / "cache", SILENT))
    assert [window.text for window in ready.train.windows] == list(range(48))
