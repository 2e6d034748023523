"""Convert texts to token ids, in the same way for training, the export gates and the server.

The `tokenizers` library reads the same tokenizer.json as transformers. Truncation and padding in that file are ignored
(all-MiniLM's pads every text to 128): the recipe sets the length, the batch the padding.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Tokens

Text = tuple[str, str | None]
"""A text and, for tasks on pairs, a second text."""
Ids = npt.NDArray[np.signedinteger[Any]]
Batch = dict[str, Ids]
"""input_ids, attention_mask and token_type_ids, each (batch, longest)."""


class Encoded(NamedTuple):
    """A text, or a window of a long text, as the model reads it: with special tokens, without padding."""

    input_ids: Ids
    type_ids: Ids
    offsets: Ids
    """(tokens, 2): start and end of each token, in characters of its own text."""
    sequence: Ids
    """(tokens,): the text of each token: 0, 1 for the second of a pair, -1 for special tokens."""
    text: int
    """Index of the text in the encoded list."""
    truncated: bool
    """Whether part of the text is not read."""


FILES = ("tokenizer.json", "tokenizer_config.json")
"""Files of a tokenizer; the second names the padding token, and may be missing."""


class Tokenizer:
    """A folder's tokenizer.json, which reads long texts as `tokens` says.

    Pairs are truncated longest first. In windows, the first text (a question) precedes each window of the second, and
    is truncated if it would leave the second too little room.
    """

    def __init__(
        self, folder: Path, tokens: Tokens, paired: bool = False, kept: Mapping[str, bytes] | None = None
    ) -> None:
        """Load a tokenizer.

        Args:
            folder: the folder with FILES.
            tokens: length, stride, and how longer texts are read.
            paired: whether the second text of a pair is split into windows.
            kept: the content of FILES, if it is not to be read from the folder.

        Raises:
            InputError: tokenizer.json is missing or invalid.
        """
        path, settings = (folder / name for name in FILES)
        if kept is None:
            kept = {one.name: one.read_bytes() for one in (path, settings) if one.is_file()}
        if path.name not in kept:
            raise InputError(
                f"{path}: missing; transformers' AutoTokenizer.from_pretrained(…).save_pretrained writes it"
            )
        content = kept[path.name]
        self._tokenizer = _load(content, path)
        self.tokens = tokens
        self._questions = self._for_questions(_load(content, path)) if paired and tokens.long == "windows" else None
        self.pad_id = self._pad_id(kept.get(settings.name, b"{}"))
        self._tokenizer.no_padding()
        # the library's truncation would return every pair of the overflowing parts of two long texts
        self._tokenizer.no_truncation()
        if tokens.long == "windows":
            strategy = "only_second" if paired else "longest_first"
            self._tokenizer.enable_truncation(tokens.max_length, stride=tokens.stride, strategy=strategy)

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Encode each text, in order; a text that is read in windows gives one item per window.

        Raises:
            InputError: a text holds a lone surrogate; the message counts `texts` from 1.
        """
        for number, (text, pair) in enumerate(texts, start=1):
            refuse_lone_surrogates(text, f"text {number}")
            refuse_lone_surrogates(pair or "", f"text {number}, the second of the pair,")
        texts, cut = self.with_room(texts)
        encodings = self._tokenizer.encode_batch([text if pair is None else (text, pair) for text, pair in texts])
        return [one for index, encoding in enumerate(encodings) for one in self._windows(encoding, index, cut[index])]

    def largest_id(self) -> int:
        """The largest id that a model may be given: words, special tokens and padding included."""
        special = self._tokenizer.encode("").ids
        return int(max(self.pad_id, *special, *self._tokenizer.get_vocab(with_added_tokens=True).values()))

    def with_room(self, texts: Sequence[Text]) -> tuple[Sequence[Text], list[bool]]:
        """Truncate first texts that leave the second too little room in a window; also return which were truncated."""
        if self._questions is None:
            return texts, [False] * len(texts)
        firsts = self._questions.encode_batch([text for text, _ in texts], add_special_tokens=False)
        cut = [bool(first.overflowing) for first in firsts]
        return [
            (text[: first.offsets[-1][1]] if shorter else text, pair)
            for (text, pair), first, shorter in zip(texts, firsts, cut, strict=True)
        ], cut

    def token(self, index: int) -> str | None:
        """The spelling of a token in the vocabulary; None if there is no such id."""
        spelled: str | None = self._tokenizer.id_to_token(index)
        return spelled

    def decode(self, window: Encoded) -> str:
        """The text that the model reads, special tokens included."""
        return str(self._tokenizer.decode(window.input_ids.tolist(), skip_special_tokens=False))

    def pad(self, batch: Sequence[Encoded]) -> Batch:
        """Stack texts into arrays of (batch, longest), padded on the right to the longest."""
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

    def _for_questions(self, questions: Any) -> Any:
        """A tokenizer that truncates questions so that each window has room for more than the stride."""
        special = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        questions.no_padding()
        questions.enable_truncation(max(1, (self.tokens.max_length - self.tokens.stride) // 2 - special))
        return questions

    def _windows(self, encoding: Any, index: int, cut: bool) -> list[Encoded]:
        if self.tokens.long == "windows":
            first = _as_encoded(encoding, index, cut)
            return [first, *(_with_types_of(first, _as_encoded(one, index, cut)) for one in encoding.overflowing)]
        whole = _as_encoded(encoding, index, len(encoding.ids) > self.tokens.max_length)
        if not whole.truncated:
            return [whole]
        kept = self._choose_tokens(whole.sequence)
        arrays = (whole.input_ids, whole.type_ids, whole.offsets, whole.sequence)
        ids, types, offsets, sequence = (array[kept] for array in arrays)
        return [Encoded(ids, types, offsets, sequence, index, True)]

    def _choose_tokens(self, sequence: Ids) -> Ids:
        """The indices of the tokens that are read of a text or pair that is too long."""
        length, long = self.tokens.max_length, self.tokens.long
        if long == "head+tail":
            tail = length // 2
            return np.concatenate([np.arange(length - tail), np.arange(len(sequence) - tail, len(sequence))])
        special, first, second = (np.flatnonzero(sequence == which) for which in (-1, 0, 1))
        counts = shares(len(first), len(second), length - len(special))
        parts = zip((first, second), counts, strict=True)
        kept = [places[len(places) - count :] if long == "tail" else places[:count] for places, count in parts]
        return np.sort(np.concatenate([special, *kept]))

    def _pad_id(self, settings: bytes) -> int:
        padding = self._tokenizer.padding
        if padding:
            return int(padding["pad_id"])
        token = json.loads(settings.decode()).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        names = [token] if token else ["[PAD]", "<pad>"]  # transformers' classes have one of these by default
        known = (self._tokenizer.token_to_id(name) for name in names)
        return next((found for found in known if found is not None), 0)


def refuse_lone_surrogates(text: str, where: str) -> None:
    """Raise InputError, beginning with `where`, for half of a surrogate pair: JSON can spell one, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"a lone surrogate (U+{ord(text[error.start]):04X}, character {error.start})"
        raise InputError(f"{where} holds {found}, which is no text") from None


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens kept of each text of a pair that has more than `room`: the longer one is cut until both are equally long.

    It equals `longest_first` of the tokenizers library: an odd token goes to the longer text, or else to the second.
    """
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first: little padding, and memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _load(content: bytes, path: Path) -> Any:
    try:
        return tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path}: not a tokenizer ({error})") from None


def _as_encoded(encoding: Any, index: int, truncated: bool) -> Encoded:
    return Encoded(
        np.array(encoding.ids, np.int64),
        np.array(encoding.type_ids, np.int64),
        np.array(encoding.offsets, np.int64).reshape(-1, 2),
        np.array([-1 if one is None else one for one in encoding.sequence_ids], np.int64),
        index,
        truncated,
    )


def _with_types_of(first: Encoded, window: Encoded) -> Encoded:
    """A later window with the token types of the first.

    The library gives the second text type 1 there, whatever tokenizer.json says: RoBERTa's family has only type 0.
    """
    types = window.type_ids.copy()
    for which in (0, 1):
        own = first.type_ids[first.sequence == which]
        types[window.sequence == which] = own[0] if len(own) else 0
    return window._replace(type_ids=types)
