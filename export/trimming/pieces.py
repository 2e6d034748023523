"""Trims a tokenizer.json: finds the tokens that must stay besides those requested, and assigns new ids.

A text whose tokens are all kept is tokenized as before, given how each model works:

    WordPiece  takes the longest piece that fits: it is still there, and no piece is new.
    Unigram    takes the likeliest segmentation: it is still there, and the others that remain were less likely. A
               character without a piece costs a fixed amount more than the least likely piece, so that piece is kept.
    BPE        merges the best pair repeatedly: all merges that led to a token are kept, in order.

Any other text falls apart into shorter pieces, at worst characters or bytes, all of which are kept. So is a piece with
a character that has no piece of its own, since no shorter piece may cover it.
"""

import copy
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from bertline.artifacts.errors import InputError

MODELS = ("WordPiece", "Unigram", "BPE")
FIRST_IDS = 8
"""How many of the first ids keep their tokens: RoBERTa-like models count positions from the padding id, which is 1."""
PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")
_ENDS = {"cls", "sep"}
"""The keys under which a post-processor other than a template has [token, id]."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

Json = dict[str, Any]


def read(path: Path) -> Json:
    """Read a tokenizer.json that can be trimmed, and add the model's type if an older file lacks it.

    Raises:
        InputError: it cannot be trimmed, because of the type of its model or post-processor.
    """
    content: Json = json.loads(path.read_text(encoding="utf-8"))
    advice = "leave out --trim-vocabulary"
    kind = type(tokenizers.Tokenizer.from_file(str(path)).model).__name__
    content["model"]["type"] = kind
    if kind not in MODELS:
        raise InputError(f"{path}: a tokenizer of type {kind}; only {', '.join(MODELS)} can be trimmed: {advice}")
    for processor in _processors(content):
        if (kind := processor["type"]) not in PROCESSORS:
            raise InputError(f"{path}: a post-processor of type {kind}; supported: {', '.join(PROCESSORS)}: {advice}")
    return content


def tokens(content: Json) -> dict[str, int]:
    """The id of every token: the model's own and the added ones."""
    return {**_own(content), **{token["content"]: token["id"] for token in content["added_tokens"]}}


def closed(content: Json, ids: Collection[int]) -> set[int]:
    """`ids` and the ids of all tokens that must be kept with them."""
    own, asked = _own(content), {*ids, *_fixed(content)}
    pieces = {piece for piece, index in own.items() if index in asked} | _fallbacks(content["model"], own)
    if content["model"]["type"] == "BPE":
        pieces |= _merged_from(content["model"], pieces)
    return asked.union(own[piece] for piece in pieces)


def renumbered(content: Json, new: Mapping[int, int]) -> Json:
    """The content with only the tokens whose ids are in `new`, which maps old ids to new ones."""
    changed = {**copy.deepcopy(content), "model": _renumbered_model(content["model"], new)}
    for token in changed["added_tokens"]:
        token["id"] = new[token["id"]]
    if changed.get("padding"):
        changed["padding"]["pad_id"] = new[changed["padding"]["pad_id"]]
    for processor in _processors(changed):
        for special in processor.get("special_tokens", {}).values():
            special["ids"] = [new[index] for index in special["ids"]]
        for name in _ENDS & processor.keys():
            processor[name][1] = new[processor[name][1]]
    return changed


def _renumbered_model(model: Json, new: Mapping[int, int]) -> Json:
    changed = {**model, "vocab": _vocabulary(model["vocab"], new)}
    if model.get("unk_id") is not None:
        changed["unk_id"] = new[model["unk_id"]]
    if "merges" in model:
        kept = changed["vocab"].keys()
        changed["merges"] = [
            merge for merge in model["merges"] if {*_pair(merge), _joined(model, *_pair(merge))} <= kept
        ]
    return changed


def _own(content: Json) -> dict[str, int]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: index for index, (piece, _) in enumerate(vocabulary)}


def _vocabulary(vocabulary: Any, new: Mapping[int, int]) -> Any:
    if isinstance(vocabulary, dict):
        kept = ((piece, new[index]) for piece, index in vocabulary.items() if index in new)
        return dict(sorted(kept, key=lambda one: one[1]))
    return [entry for index, entry in enumerate(vocabulary) if index in new]


def _fixed(content: Json) -> Iterator[int]:
    """The ids that the file refers to, and the first ones."""
    yield from (index for index in tokens(content).values() if index < FIRST_IDS)
    yield from (token["id"] for token in content["added_tokens"])
    if content.get("padding"):
        yield content["padding"]["pad_id"]
    for processor in _processors(content):
        yield from (index for special in processor.get("special_tokens", {}).values() for index in special["ids"])
        yield from (processor[name][1] for name in _ENDS & processor.keys())
    model = content["model"]
    if model.get("unk_token") in _own(content):
        yield _own(content)[model["unk_token"]]
    if model["type"] == "Unigram":
        yield from () if model.get("unk_id") is None else (model["unk_id"],)
        yield min(range(len(model["vocab"])), key=lambda index: float(model["vocab"][index][1]))


def _fallbacks(model: Json, pieces: Collection[str]) -> set[str]:
    """Characters and bytes, and pieces with a character that has no piece of its own."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    kept = set()
    for piece in pieces:
        symbols = _symbols(piece, prefix, suffix)
        if len(symbols) < 2 or _BYTE.fullmatch(piece) or any(symbol not in pieces for symbol in symbols):
            kept.add(piece)
    return kept


def _symbols(piece: str, prefix: str, suffix: str) -> list[str]:
    """The shortest pieces that `piece` can be split into: ##ing gives ##i, ##n, ##g."""
    begun = prefix if prefix and piece.startswith(prefix) else ""
    ended = suffix if suffix and piece.endswith(suffix) else ""
    body = piece[len(begun) : len(piece) - len(ended)]
    symbols = [(begun if place == 0 else prefix) + character for place, character in enumerate(body)]
    return [*symbols[:-1], symbols[-1] + ended] if symbols else []


def _merged_from(model: Json, pieces: Collection[str]) -> set[str]:
    """`pieces` and the parts of every merge that produces one of them, recursively down to characters."""
    sources: dict[str, list[str]] = defaultdict(list)
    for merge in model["merges"]:
        sources[_joined(model, *_pair(merge))] += _pair(merge)
    found, open_ = set(pieces), list(pieces)
    while open_:
        more = set(sources[open_.pop()]) - found
        found |= more
        open_ += more
    return found


def _pair(merge: str | list[str]) -> list[str]:
    """Both parts of a merge, which older files have in one string."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _joined(model: Json, first: str, second: str) -> str:
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _processors(content: Json) -> Iterator[Json]:
    """The post-processor, or each one in a sequence."""
    processor = content.get("post_processor")
    if processor and processor["type"] == "Sequence":
        yield from processor["processors"]
    elif processor:
        yield processor
