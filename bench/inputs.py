"""Token ids for timing: cut from real texts to exact lengths, so they are as varied as a server's inputs."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Tokens
from bertline.tasks.tokens import Batch, Encoded, Text, Tokenizer


def make(tokenizer: Path, texts: Sequence[Text], grid: Sequence[tuple[int, int]]) -> list[Batch]:
    """A batch of int64 arrays (batch, length) for each point of the grid.

    A row is made from consecutive texts, joined by blanks and cut by the model's own tokenizer to exactly `length`
    tokens, special tokens included; the next row continues with the next text.

    Raises:
        InputError: the texts have too few words to fill a row.
    """
    joined = [text if pair is None else f"{text} {pair}" for text, pair in texts]
    spoken = [text for text in joined if text.strip()]
    batches = []
    for batch, length in grid:
        cutter = Tokenizer(tokenizer, Tokens(max_length=length))
        endless = cycle(spoken)
        batches.append(cutter.pad([_row(cutter, endless, length) for _ in range(batch)]))
    return batches


def _row(cutter: Tokenizer, texts: Iterator[str], length: int) -> Encoded:
    joined = ""
    for text in islice(texts, length):  # each adds at least one token
        joined = f"{joined} {text}"
        row = cutter.encode([(joined, None)])[0]
        if len(row.input_ids) == length:
            return row
    raise InputError(f"the texts to measure with have too few words for an input of {length} tokens")
