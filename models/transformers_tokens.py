"""What transformers makes of texts: the reference of a tokenization that does without transformers everywhere else.

transformers reads a tokenizer.json, too, and then changes what it does by tokenizer_config.json and by the defaults of
the tokenizer's class: lower case and accents of BERT's kind, the blank before a text of RoBERTa's, added tokens. Of a
model without tokenizer.json it reads what older ones have.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertline.artifacts.errors import InputError
from bertline.tasks.task import Task
from bertline.tasks.tokens import Text

SETTINGS: dict[str, dict[str, Any]] = {
    "head": {"truncation": "longest_first"},
    "tail": {"truncation": "longest_first"},
    "head+tail": {"truncation": False},
    "windows": {"truncation": "longest_first", "return_overflowing_tokens": True},
}
"""How transformers is asked for what bertline calls `long`."""


class Window(NamedTuple):
    """A text, or a window of a long one, special tokens included, without padding."""

    text: int
    input_ids: list[int]
    attention_mask: list[int]
    token_type_ids: list[int]
    """0 where transformers gives the model none: it takes them for that."""


class Reading(NamedTuple):
    """All windows in the order of their texts, and how the model is to be given them."""

    windows: list[Window]
    pad_id: int | None
    """None where transformers cannot pad."""
    typed: bool
    """Whether the model takes types: DistilBERT's tokenizer.json has them, the model does not."""


def read(folder: Path, task: Task, texts: Sequence[Text], typed: bool) -> Reading:
    """The texts as the tokenizer of a model's own folder reads them for `task`, by transformers alone; `typed` as in
    `Reading`. A question has to leave its context room.

    Raises:
        InputError: transformers reads the folder by a tokenizer of its own in Python, not by tokenizer.json.
    """
    tokens = task.settings.tokens
    tokenizer = _open(folder)
    tokenizer.truncation_side = "left" if tokens.long == "tail" else "right"
    asked = dict(SETTINGS[tokens.long])
    if task.settings.task == "question-answering":
        asked["truncation"] = "only_second"
    # two lists, even of one pair each: called with a single pair, transformers drops a second text that is empty
    firsts, seconds = [text for text, _ in texts], [pair for _, pair in texts]
    found = tokenizer(
        firsts, None if None in seconds else seconds, max_length=tokens.max_length, return_token_type_ids=True,
        return_attention_mask=True, stride=tokens.stride, **asked,
    )  # fmt: skip
    of = found.get("overflow_to_sample_mapping", range(len(texts)))
    types = found["token_type_ids"]
    if not typed or "token_type_ids" not in tokenizer.model_input_names:
        types = [[0] * len(one) for one in types]
    rows = zip(of, found["input_ids"], found["attention_mask"], types, strict=True)
    return Reading([_keep_ends(Window(*row), tokens.max_length) for row in rows], tokenizer.pad_token_id, typed)


def _open(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        name = type(tokenizer).__name__
        raise InputError(f"{folder}: transformers reads it by {name}, which does not take tokenizer.json")
    return tokenizer


def _keep_ends(window: Window, max_length: int) -> Window:
    """Head and tail of a window that is too long: transformers knows no such reading."""
    if len(window.input_ids) <= max_length:
        return window
    tail = max_length // 2
    ids, mask, types = (each[: max_length - tail] + each[-tail:] for each in window[1:])
    return Window(window.text, ids, mask, types)
