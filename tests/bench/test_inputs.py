from pathlib import Path

import numpy as np
import pytest

from bertline.artifacts.errors import InputError
from bertline.bench import inputs
from bertline.tasks.tokens import Text
from tests.conftest import make_texts

TEXTS: list[Text] = [(row["text"], None) for row in make_texts(20)]


def test_every_row_has_exactly_the_length_asked_and_no_padding(tiny_model: Path) -> None:
    grid = [(1, 16), (1, 64), (4, 33)]
    for (batch, length), made in zip(grid, inputs.make(tiny_model, TEXTS, grid), strict=True):
        assert {name: (array.shape, array.dtype) for name, array in made.items()} == {
            name: ((batch, length), np.dtype(np.int64)) for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        assert made["attention_mask"].all()
        assert (made["input_ids"][:, 0] == 2).all()  # [CLS]
        assert (made["input_ids"][:, -1] == 3).all()  # [SEP]


def test_rows_differ_and_the_same_texts_give_the_same_ids(tiny_model: Path) -> None:
    (first,) = inputs.make(tiny_model, TEXTS, [(4, 32)])
    (again,) = inputs.make(tiny_model, TEXTS, [(4, 32)])
    assert len({row.tobytes() for row in first["input_ids"]}) == 4
    assert np.array_equal(first["input_ids"], again["input_ids"])


def test_ids_are_those_of_the_texts_joined(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    (made,) = inputs.make(tiny_model, [("a great film", "and the plot"), ("was bad", None)], [(1, 16)])
    endless = " ".join(["a great film and the plot was bad"] * 16)
    expected = AutoTokenizer.from_pretrained(tiny_model)(endless, truncation=True, max_length=16)["input_ids"]
    assert made["input_ids"][0].tolist() == expected


@pytest.mark.parametrize("texts", [[], [("", None), ("  ", None)]])
def test_texts_without_words_are_refused(tiny_model: Path, texts: list[Text]) -> None:
    with pytest.raises(InputError, match="too few words for an input of 16 tokens"):
        inputs.make(tiny_model, texts, [(1, 16)])
