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


def test_it_is_made_of_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    """As deberta-v3-base has it on the hub."""
    import sentencepiece

    model = tmp_path / "spm.model"
    with model.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(encoders.TEXTS), model_writer=stream, vocab_size=100, minloglevel=2,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
            unk_piece="[UNK]",
        )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    transformers.DebertaV2Config(vocab_size=101).save_pretrained(tmp_path)
    text = ("Anna Müller works in Berlin", "near Paris")
    expected = transformers.DebertaV2Tokenizer(str(model), do_lower_case=False)(*text)["input_ids"]
    with tokenizer_json.temporary(tmp_path) as made:
        assert read(made, *text) == expected
        assert transformers.AutoTokenizer.from_pretrained(made)(*text)["input_ids"] == expected


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
