"""The fidelity gate: an fp32 graph must give the logits that PyTorch gives, on real texts of mixed lengths."""

from collections.abc import Sequence

import numpy as np

from bertline.artifacts.bundle import Fidelity
from bertline.artifacts.errors import GateError
from bertline.tasks.task import Output
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


def difference(ones: Sequence[Output], others: Sequence[Output]) -> float:
    """The largest |Δlogit|, over all windows; no number where one is not."""
    return float(np.max([np.abs(one - other).max() for one, other in zip(ones, others, strict=True)]))


def gate(pytorch: Sequence[Output], fp32: Sequence[Output], texts: int) -> Fidelity:
    """Hold the converted graph against PyTorch, which answered the same `texts`.

    Raises:
        GateError: the logits differ by more than MAX_ABS_LOGIT_DIFF, or are not numbers.
    """
    found = difference(pytorch, fp32)
    if not found <= MAX_ABS_LOGIT_DIFF:
        raise GateError(
            f"the fp32 ONNX model is not the PyTorch model: largest |Δlogit| {found:.3g} on {texts} texts, "
            f"at most {MAX_ABS_LOGIT_DIFF:g} is let pass; no bundle was made"
        )
    return Fidelity(max_abs_logit_diff=found, texts=texts)
