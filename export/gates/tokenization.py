"""The tokenization gate: serving must read every text as transformers does, token for token."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import numpy as np

from bertline.artifacts.errors import GateError, InputError
from bertline.models.transformers_tokens import Reading, Window
from bertline.tasks.tokens import Encoded, Text, Tokenizer

ADVICE = (
    "transformers, which also follows tokenizer_config.json, and the tokenizers library disagree here; no bundle was "
    "made; please report this with the name of the model"
)
Place = tuple[int, int, int]
"""The indices of a text, of the window in it, and of the token in that."""
Token = tuple[int, ...]
"""A token's id, mask and type."""


def gate(tokenizer: Tokenizer, texts: Sequence[Text], windows: Sequence[Encoded], theirs: Reading) -> int:
    """Compare the windows of texts with transformers' reading of the same texts.

    Returns:
        The number of tokens compared.

    Raises:
        GateError: tokens differ (the message names the first: text, place and both tokens), or the padding tokens do.
    """
    ours = [_window(one, theirs.typed) for one in windows]
    if ours != theirs.windows:
        raise GateError(f"{_difference(tokenizer, texts, ours, theirs.windows)}; {ADVICE}")
    if theirs.pad_id not in (None, tokenizer.pad_id):
        raise GateError(f"bertline pads with token {tokenizer.pad_id}, transformers with {theirs.pad_id}; {ADVICE}")
    return sum(len(window.input_ids) for window in windows)


def _window(one: Encoded, typed: bool) -> Window:
    types = one.type_ids if typed else np.zeros_like(one.type_ids)
    return Window(one.text, one.input_ids.tolist(), [1] * len(one.input_ids), types.tolist())


def refusal(tokenizer: Tokenizer, texts: Sequence[Text]) -> None:
    """Raise GateError unless each of these invalid texts is refused with an InputError that names its place."""
    for text in texts:
        try:
            tokenizer.encode([text])
        except InputError as error:
            if str(error).startswith("text 1"):
                continue
        raise GateError(f"{text!a} is not valid text, but was not refused; no bundle was made")


def _difference(tokenizer: Tokenizer, texts: Sequence[Text], ours: Sequence[Window], theirs: Sequence[Window]) -> str:
    """The first token that differs between both sides, or that one side lacks, in words."""
    both = next(pair for pair in zip_longest(_tokens(ours), _tokens(theirs)) if pair[0] != pair[1])
    place = min(one[0] for one in both if one is not None)
    ours_told, theirs_told = (
        _describe(tokenizer, one[1]) if one is not None and one[0] == place else "nothing" for one in both
    )
    text, window, token = place
    where = f"text {text + 1} ({texts[text][0]!r:.60}), window {window + 1}, token {token + 1}"
    return f"{where}: bertline reads {ours_told}, transformers {theirs_told}"


def _tokens(windows: Iterable[Window]) -> Iterator[tuple[Place, Token]]:
    seen: Counter[int] = Counter()
    for text, *rows in windows:
        for token, values in enumerate(zip(*rows, strict=True)):
            yield (text, seen[text], token), values
        seen[text] += 1


def _describe(tokenizer: Tokenizer, token: Token) -> str:
    index, mask, kind = token
    return f"{index} ({tokenizer.token(index)!r}, mask {mask}, type {kind})"
