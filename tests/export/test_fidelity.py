"""The texts and the bound of the fidelity gate."""

import numpy as np
import pytest

from bertline.artifacts.errors import GateError
from bertline.export import fidelity


def lengths(texts: list[tuple[str, str | None]]) -> list[int]:
    return [len(text.split()) for text, _ in texts]


@pytest.mark.parametrize("count", [1, 10, 300, 5000])
def test_lengths_are_mixed_however_many_texts_there_are(count: int) -> None:
    texts = [(f"{index} " + "word " * 2000, None) for index in range(count)]
    cuts = fidelity.mixed_lengths(texts)
    assert len(cuts) == 256
    assert all(lengths(cuts).count(words) >= 256 // len(fidelity.WORDS) - 10 for words in fidelity.WORDS)
    assert len({text.split()[0] for text, _ in cuts}) == min(count, 256)


def test_few_texts_are_cut_several_times_each() -> None:
    cuts = fidelity.mixed_lengths([(f"{index} " + "word " * 2000, None) for index in range(29)])
    assert len(set(cuts)) == 256


def test_both_texts_of_a_pair_are_cut() -> None:
    cuts = fidelity.mixed_lengths([("one two three four", "five six seven eight")], 3)
    assert cuts == [
        ("one", "five"),
        ("one two three", "five six seven"),
        ("one two three four", "five six seven eight"),
    ]


def test_the_gate_passes_what_is_within_the_bound() -> None:
    logits = np.zeros((256, 2), np.float32)
    proof = fidelity.gate(list(logits), list(logits + np.float32(0.0009)), 256)
    assert proof.texts == 256
    assert proof.max_abs_logit_diff == pytest.approx(0.0009)


@pytest.mark.parametrize("wrong", [0.0011, -0.0011, np.nan, np.inf])
def test_one_logit_beyond_the_bound_is_refused(wrong: float) -> None:
    logits = np.zeros((256, 2), np.float32)
    other = logits.copy()
    other[200, 1] = wrong
    with pytest.raises(GateError, match="is not the PyTorch model"):
        fidelity.gate(list(logits), list(other), 256)
