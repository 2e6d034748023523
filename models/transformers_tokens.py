"""Tokenization by transformers: the reference for bertline's own, which works without transformers.

transformers reads tokenizer.json too, and then modifies it by tokenizer_config.json and by the defaults of the
tokenizer's class: lower case and accents for BERT, the leading blank for RoBERTa, added tokens. Without tokenizer.json
it reads the files of older models.
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
"""Arguments of transformers' tokenizers for each value of `long`."""


class Window(NamedTuple):
    """A text, or a window of a long text, with special tokens, without padding."""

    text: int
    input_ids: list[int]
    attention_mask: list[int]
    token_type_ids: list[int]
    """Zeros if transformers passes none to the model, which is the model's default."""


class Reading(NamedTuple):
    """All windows in the order of their texts, and how to feed them to the model."""

    windows: list[Window]
    pad_id: int | None
    """Padding token; None if transformers has none."""
    typed: bool
    """Whether the model takes token types: DistilBERT does not, though its tokenizer.json has them."""


def read(folder: Path, task: Task, texts: Sequence[Text], typed: bool) -> Reading:
    """Tokenize texts for `task` with the tokenizer of a model folder, by transformers alone.

    Args:
        folder: the model folder.
        task: the task, whose settings say how long texts are read.
        texts: the texts; questions must leave room for their contexts.
        typed: see `Reading`.

    Raises:
        InputError: transformers reads the folder with a slow tokenizer in Python, not with tokenizer.json.
    """
    tokens = task.settings.tokens
    tokenizer = _open(folder)
    tokenizer.truncation_side = "left" if tokens.long == "tail" else "right"
    asked = dict(SETTINGS[tokens.long])
    if task.settings.task == "question-answering":
        asked["truncation"] = "only_second"
    # always two lists: called with a single pair, transformers drops an empty second text
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
    """The head and tail of a window that is too long, which transformers has no option for."""
    if len(window.input_ids) <= max_length:
        return window
    tail = max_length // 2
    ids, mask, types = (each[: max_length - tail] + each[-tail:] for each in window[1:])
    return Window(window.text, ids, mask, types)
