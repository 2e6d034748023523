"""The fidelity gate: an fp32 graph must give the logits that PyTorch gives, on real texts of mixed lengths."""

from collections.abc import Sequence

import numpy as np

from bertline.artifacts.bundle import Fidelity
from bertline.artifacts.errors import GateError
from bertline.bench.compare import Measured
from bertline.tasks.text_classification import Logits
from bertline.tasks.tokens import Text

TEXTS = 256
WORDS = (1, 3, 6, 12, 24, 48, 96, 192, 1000)
"""What the texts are cut to, in turn: from a single word to more than any position holds."""
MAX_ABS_LOGIT_DIFF = 1e-3


def mixed_lengths(texts: Sequence[Text], count: int = TEXTS) -> list[Text]:
    """`count` cuts of `texts` to WORDS; several of each, of different lengths, where there are fewer texts."""
    if len(texts) > count:
        texts = [texts[index * len(texts) // count] for index in range(count)]  # from all over: files may be sorted
    cuts = []
    for index in range(count):
        turn, which = divmod(index, len(texts))
        words = WORDS[(which + turn) % len(WORDS)]
        text, pair = texts[which]
        cuts.append((cut(text, words), None if pair is None else cut(pair, words)))
    return cuts


def cut(text: str, words: int) -> str:
    """The first `words` words."""
    return " ".join(text.split()[:words])


def difference(one: Logits, other: Logits) -> float:
    """The largest |Δlogit|."""
    return float(np.abs(one - other).max())


def gate(pytorch: Measured, fp32: Measured) -> Fidelity:
    """Hold the converted graph against PyTorch.

    Raises:
        GateError: the logits differ by more than MAX_ABS_LOGIT_DIFF, or are not numbers.
    """
    found = difference(pytorch.logits, fp32.logits)
    if not found <= MAX_ABS_LOGIT_DIFF:
        raise GateError(
            f"the fp32 ONNX model is not the PyTorch model: largest |Δlogit| {found:.3g} on {len(fp32.logits)} texts, "
            f"at most {MAX_ABS_LOGIT_DIFF:g} is let pass; no bundle was made"
        )
    return Fidelity(max_abs_logit_diff=found, texts=len(fp32.logits))
