"""Texts to token ids: the one way for training, the export gate and the server.

The `tokenizers` library reads the same tokenizer.json that transformers reads. What that file says of truncation and
padding is set aside (all-MiniLM's pads every text to 128): length belongs to the recipe, padding to the batch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from bertline.artifacts.errors import InputError

Text = tuple[str, str | None]
"""A text and, for tasks on pairs, the second one."""
Ids = npt.NDArray[np.int64]
Batch = dict[str, Ids]
"""input_ids, attention_mask and token_type_ids, each (batch, longest)."""


class Encoded(NamedTuple):
    """One text as the model reads it, special tokens included, without padding."""

    input_ids: Ids
    type_ids: Ids
    truncated: bool
    """The text was longer than the model reads."""


class Tokenizer:
    """A folder's tokenizer.json, cut at `max_length` tokens: the longer of two texts first."""

    def __init__(self, folder: Path, max_length: int) -> None:
        """Load a tokenizer.

        Args:
            folder: holds tokenizer.json (and tokenizer_config.json, which names the padding token).
            max_length: tokens, special ones included.

        Raises:
            InputError: the file is missing or not a tokenizer's.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                f"{path}: missing; transformers' AutoTokenizer.from_pretrained(…).save_pretrained writes it"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: not a tokenizer ({error})") from None
        self.max_length = max_length
        self.pad_id = self._pad_id(folder)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, strategy="longest_first")

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Token ids of each text, in order."""
        inputs = [text if pair is None else (text, pair) for text, pair in texts]
        return [
            Encoded(np.array(one.ids, np.int64), np.array(one.type_ids, np.int64), bool(one.overflowing))
            for one in self._tokenizer.encode_batch(inputs)
        ]

    def pad(self, batch: Sequence[Encoded]) -> Batch:
        """Stack texts into arrays of (batch, longest), padded on the right to the longest of them."""
        shape = len(batch), max(len(one.input_ids) for one in batch)
        padded = {
            "input_ids": np.full(shape, self.pad_id, np.int64),
            "attention_mask": np.zeros(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        for row, one in enumerate(batch):
            length = len(one.input_ids)
            padded["input_ids"][row, :length] = one.input_ids
            padded["attention_mask"][row, :length] = 1
            padded["token_type_ids"][row, :length] = one.type_ids
        return padded

    def _pad_id(self, folder: Path) -> int:
        padding = self._tokenizer.padding
        if padding:
            return int(padding["pad_id"])
        settings = folder / "tokenizer_config.json"
        token = json.loads(settings.read_text(encoding="utf-8")).get("pad_token") if settings.is_file() else None
        token = token.get("content") if isinstance(token, dict) else token
        return self._tokenizer.token_to_id(token or "[PAD]") or 0


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, the longest first: little padding, and memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
