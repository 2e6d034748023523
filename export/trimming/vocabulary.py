"""Trims a model's vocabulary to the tokens of given texts and of the evaluation texts, and what they fall back on.

Embeddings make up most of many encoders' bytes, and a task uses few of their rows. The rows of the kept tokens stay
unchanged, and ids are reassigned in the old order. The result is a Hugging Face folder, from which a bundle is made as
from any other; it is still compared with the original model.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bertline.artifacts import encoder, files, places, tables
from bertline.artifacts.bundle import Vocabulary
from bertline.artifacts.errors import GateError, InputError
from bertline.artifacts.sequences import batched
from bertline.export.gates import fidelity
from bertline.export.quiet import quiet
from bertline.export.sources import Origin
from bertline.export.trimming import pieces
from bertline.export.trimming.pieces import Json
from bertline.tasks.task import string
from bertline.tasks.tokens import Encoded, Text

BATCH = 1000
"""The number of rows tokenized at once."""


def trim(origin: Origin, place: str, folder: Path) -> tuple[Origin, Vocabulary]:
    """Write `origin` with a smaller vocabulary as a Hugging Face folder.

    Only tokenizer.json holds the vocabulary: the files of Python tokenizers are left out.

    Args:
        origin: the model; the tokens of its examples, and of the cuts of them in the fidelity gate, are also kept.
        place: a file, a glob or pkg://… of texts: strings and lists of words in any column count.
        folder: the folder to make.

    Raises:
        InputError: `place` holds no text, or the tokenizer cannot be trimmed.
        GateError: an evaluation text is tokenized differently than before.
    """
    texts = [*origin.texts, *fidelity.of_mixed_lengths(origin.texts, origin.settings)]
    windows = origin.task.tokenizer(origin.tokenizer).encode(texts)
    content = pieces.read(origin.tokenizer / "tokenizer.json")
    rows, seen = _read_tokens(origin.tokenizer, place)
    known = pieces.closed(content, seen | _special(origin, content))
    kept = pieces.closed(content, known.union(*(window.input_ids.tolist() for window in windows)))
    new = {old: index for index, old in enumerate(sorted(kept))}
    folder.mkdir()
    write_tokenizer(origin.tokenizer, folder, new)
    saved = _write_model(origin, folder, new)
    prove(texts, windows, origin.task.tokenizer(folder).encode(texts), new)
    apart = {window.text for window in windows if not known.issuperset(window.input_ids.tolist())}
    return replace(origin, folder=folder, tokenizer=folder, config=encoder.check(folder)), Vocabulary(
        kept=len(kept),
        of=len(pieces.tokens(content)),
        bytes_saved=saved,
        texts=rows,
        unseen_share=round(sum(index < len(origin.examples) for index in apart) / len(origin.examples), 6),
    )


def write_tokenizer(old: Path, folder: Path, new: Mapping[int, int]) -> None:
    """Write the tokenizer of the folder `old` to `folder`, with the ids that `new` maps to.

    Raises:
        InputError: the `tokenizers` library assigns other ids, since the old ones have gaps.
    """
    path = old / "tokenizer.json"
    content = pieces.read(path)
    changed = json.dumps(pieces.renumbered(content, new), ensure_ascii=False, separators=(",", ":"))
    files.write_text(folder / "tokenizer.json", changed)
    vocabulary = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    if vocabulary != {token: new[index] for token, index in pieces.tokens(content).items() if index in new}:
        raise InputError(f"{path}: its ids are not consecutive; leave out --trim-vocabulary")
    if (old / "special_tokens_map.json").is_file():
        shutil.copyfile(old / "special_tokens_map.json", folder / "special_tokens_map.json")
    if (old / "tokenizer_config.json").is_file():
        settings = json.loads((old / "tokenizer_config.json").read_text(encoding="utf-8"))
        if decoder := settings.get("added_tokens_decoder"):
            kept = ((new[int(index)], token) for index, token in decoder.items() if int(index) in new)
            settings["added_tokens_decoder"] = {str(index): token for index, token in kept}
        files.write_json(folder / "tokenizer_config.json", settings)


def prove(texts: Sequence[Text], before: Sequence[Encoded], after: Sequence[Encoded], new: Mapping[int, int]) -> None:
    """Compare the windows read with the trimmed vocabulary with those read with the whole one, token by token.

    Raises:
        GateError: they differ; the message names the first such text.
    """
    for one, other in zip_longest(before, after):
        if one is None or other is None or not _alike(one, other, new):
            number = (one or other).text
            text = " | ".join(part for part in texts[number] if part is not None)
            raise GateError(
                f"the trimmed tokenizer reads evaluation text {number + 1} differently ({text!r:.200}); no bundle was "
                "made: leave out --trim-vocabulary"
            )


def _alike(one: Encoded, other: Encoded, new: Mapping[int, int]) -> bool:
    ids = [new.get(index) for index in one.input_ids.tolist()]
    return ids == other.input_ids.tolist() and np.array_equal(one.offsets, other.offsets)


def _read_tokens(folder: Path, place: str) -> tuple[int, set[int]]:
    """The number of rows in `place`, and the ids of all tokens in them."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    count, seen = 0, set[int]()
    for batch in batched(_rows(place), BATCH):
        count += len(batch)
        for encoding in tokenizer.encode_batch_fast([text for texts in batch for text in texts]):
            seen.update(encoding.ids)
    if not seen:
        raise InputError(f"{place}: no column holds text")
    return count, seen


def _rows(place: str) -> Iterator[list[str]]:
    """Yield the texts of each row."""
    for path in places.data_files(place):
        for where, row in tables.rows(path):
            words = {column: " ".join(value) if _is_words(value) else value for column, value in row.items()}
            yield [string(words, column, where) for column, value in words.items() if isinstance(value, str)]


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _special(origin: Origin, content: Json) -> set[int]:
    """The ids of the tokens that config.json and tokenizer_config.json name."""
    tokens = pieces.tokens(content)
    path = origin.tokenizer / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    named = [value["content"] if isinstance(value, dict) else value for name, value in settings.items()
             if name.endswith("_token")]  # fmt: skip
    numbered = [value for name, value in origin.config.items() if name.endswith("_token_id")]
    numbered += map(int, settings.get("added_tokens_decoder", {}))
    return {tokens[one] for one in named if one in tokens} | {one for one in numbered if one in tokens.values()}


def _write_model(origin: Origin, folder: Path, new: Mapping[int, int]) -> int:
    """Write weights and config.json with only the kept rows of the embeddings; returns the number of bytes saved.

    Raises:
        InputError: the tokenizer has tokens for which the model has no embedding row.
    """
    with quiet():
        import torch

        from bertline.models import pytorch

        model: Any = pytorch.load(origin.folder, origin.task.architecture)
        embeddings = model.get_input_embeddings()
        before = embeddings.weight.detach()
        if max(new) >= len(before):
            raise InputError(
                f"{origin.tokenizer / 'tokenizer.json'}: has a token of id {max(new)}; the model has {len(before)} "
                "embeddings"
            )
        embeddings.weight = torch.nn.Parameter(before[list(new)])
        model.save_pretrained(folder)
    ids = {name: new.get(index) for name, index in origin.config.items() if name.endswith("_token_id")}
    files.write_json(folder / "config.json", {**origin.config, **ids, "vocab_size": len(new)})
    return int(before[0].nbytes * (len(before) - len(new)))
