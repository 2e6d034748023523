"""Bundles in other tools: the README of a Triton model shows how to read long texts; tokenizers cut at the same end."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import bundle as bundles
from bertline.artifacts.bundle import MODEL
from bertline.artifacts.task import Tokens
from bertline.export.sealing import hugging_face, triton
from bertline.tasks import catalog
from tests.conftest import classifier

TEXT = "the film was great and the plot was good with a story of it " * 3
TOKENS = [
    Tokens(max_length=16),
    Tokens(max_length=16, long="tail"),
    Tokens(max_length=15, long="head+tail"),
    Tokens(max_length=16, stride=4, long="windows"),
]
CASES = [*(("text-classification", tokens) for tokens in TOKENS), ("question-answering", TOKENS[-1])]


@pytest.mark.parametrize(("task", "tokens"), CASES)
def test_what_the_readme_says_is_what_the_tokenizer_does(
    task: str, tokens: Tokens, bundle: tuple[Path, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundle[0], folder)
    (folder / MODEL).parent.rename(folder / "1")
    manifest = bundles.read(folder).model_copy(update={"task": task, "tokens": tokens})
    (code,) = re.findall(r"```python\n(.*?)```", triton.section(folder, manifest), re.DOTALL)
    monkeypatch.chdir(folder)
    said: dict[str, Any] = {}
    exec(code, said)
    text = ("who was it", TEXT) if task == "question-answering" else (TEXT, None)
    windows = catalog.make(manifest).tokenizer(folder).encode([text])
    found = said["requests"](*text)
    assert [one["input_ids"][0].tolist() for one in found] == [one.input_ids.tolist() for one in windows]
    assert [one["token_type_ids"][0].tolist() for one in found] == [one.type_ids.tolist() for one in windows]
    assert all((one["attention_mask"] == 1).all() for one in found)


@pytest.mark.parametrize(("long", "side"), [("head", "right"), ("tail", "left")])
def test_other_tools_cut_at_the_same_end(long: Any, side: str, tiny_classifier: Path, tmp_path: Path) -> None:
    settings = classifier().model_copy(update={"tokens": Tokens(max_length=16, long=long)})
    (tmp_path / "made").mkdir()
    hugging_face.write(tmp_path / "made", tiny_classifier, settings, split=False)
    told = json.loads((tmp_path / "made/tokenizer_config.json").read_text())
    assert (told["truncation_side"], told["model_max_length"]) == (side, 16)
