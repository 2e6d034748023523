"""Measures whether to compute short texts in batches, on one core, as `serve.lanes` computes them.

They are batched only if that is faster and gives each text the answer that it gets alone: dynamic int8 scales
activations over the whole batch, so a text's answer would depend on the other texts in it.
"""

from collections.abc import Sequence
from statistics import median

import numpy as np

from bertline.artifacts.bundle import Packing
from bertline.bench import inputs
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.serve.engine import tolerance
from bertline.tasks.tokens import Batch, Text

TEXTS = 8
LENGTHS = (16, 32, 64)
LEAST_GAIN = 1.1


def measure(system: System, texts: Sequence[Text]) -> Packing | None:
    """Up to which length a batch of TEXTS is at least LEAST_GAIN times as fast as single texts; None if at no length.

    Args:
        system: the chosen model.
        texts: real texts, which are cut to each length.
    """
    lengths = [length for length in LENGTHS if length <= system.settings.tokens.max_length]
    singles = inputs.make(system.tokenizer, texts, [(1, length) for length in lengths])
    packs = inputs.make(system.tokenizer, texts, [(TEXTS, length) for length in lengths])
    with Worker(system, threads=1) as worker:
        if not all(answers_alike(worker, pack) for pack in packs):
            return None
        pairs = zip(lengths, singles, packs, strict=True)
        gains = {length: TEXTS * _seconds(worker, one) / _seconds(worker, pack) for length, one, pack in pairs}
    return packing(gains)


def _seconds(worker: Worker, batch: Batch) -> float:
    (seconds,) = worker.time(batch, None)
    return median(seconds)


def packing(gains: dict[int, float]) -> Packing | None:
    """Packing up to the longest length such that it and all shorter ones gain; None if there is none."""
    worth = 0
    for length, gain in sorted(gains.items()):
        if gain < LEAST_GAIN:
            break
        worth = length
    rounded = {str(length): round(gain, 2) for length, gain in gains.items()}
    return Packing(tokens=worth, texts=TEXTS, gains=rounded) if worth else None


def answers_alike(worker: Worker, pack: Batch) -> bool:
    """Whether rows of different lengths get the same outputs in a padded batch as alone, except for rounding.

    Kernels for other shapes sum in another order. A MiniLM in dynamic int8 is off by 0.1 to 0.3, in static int8 on
    OpenVINO by at most 0.012.
    """
    longest = pack["input_ids"].shape[1]
    lengths = [longest - row for row in range(TEXTS)]
    padded = {name: array.copy() for name, array in pack.items()}
    for row, length in enumerate(lengths):
        padded["attention_mask"][row, length:] = 0
    found = worker.run(padded)
    for row, length in enumerate(lengths):
        alone = worker.run({name: array[row : row + 1, :length] for name, array in pack.items()})[0]
        beside = found[row, :length] if found.ndim == 3 else found[row]
        if not np.abs(alone - beside).max() <= tolerance(found):
            return False
    return True
