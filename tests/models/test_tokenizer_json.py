"""A tokenizer.json that says what transformers reads, whatever the model's folder holds."""

import json
from pathlib import Path

import pytest
import transformers

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Tokens
from bertline.models import tokenizer_json
from bertline.tasks.tokens import Tokenizer
from tests import encoders
from tests.conftest import make_model, with_vocabulary_alone


def read(folder: Path, text: str, pair: str | None = None) -> list[int]:
    ids: list[int] = Tokenizer(folder, Tokens(max_length=32)).encode([(text, pair)])[0].input_ids.tolist()
    return ids


def test_it_is_made_where_there_is_a_vocabulary_alone(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    older = with_vocabulary_alone(model, tmp_path / "older")
    text = ("A great film", "it was bad")
    made_beside = tokenizer_json.make_beside_config(older, tmp_path / "made")
    assert made_beside == tmp_path / "made"
    assert read(made_beside, *text) == read(model, *text)
    assert tokenizer_json.make_beside_config(model, tmp_path / "unmade") == model
    with tokenizer_json.temporary(older) as made, tokenizer_json.temporary(model) as copied:
        assert read(made, *text) == read(copied, *text)
    with pytest.raises(InputError, match=r"no tokenizer.json"), tokenizer_json.temporary(tmp_path / "none"):
        pass


def test_one_that_transformers_reads_otherwise_is_written_as_it_reads_it(tmp_path: Path) -> None:
    """BertTokenizerFast makes small letters unless tokenizer_config.json says no, whatever tokenizer.json says."""
    source = encoders.make("bert-cased", tmp_path / "cased")
    with tokenizer_json.temporary(source) as same:
        assert (same / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "BertTokenizerFast"}))
    text = "Anna Müller works in Berlin"
    theirs = transformers.AutoTokenizer.from_pretrained(source)(text)["input_ids"]
    assert read(source, text) != theirs
    with tokenizer_json.temporary(source) as made:
        assert read(made, text) == theirs
        assert transformers.AutoTokenizer.from_pretrained(made)(text)["input_ids"] == theirs
