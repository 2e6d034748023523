"""Token classification: entities, found word by word in plain text, in training and serving alike.

Words do not depend on the tokenizer. The model labels the first sub-word of each word with an IOB2 tag (B-LOC begins an
entity, I-LOC continues it, O is outside any); tags become entities as in seqeval and conlleval.pl. Entities are located
by characters of the original text.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bertline.artifacts.errors import InputError
from bertline.tasks.labels import sort_labels
from bertline.tasks.task import (
    IGNORED,
    Answer,
    Columns,
    Counts,
    Example,
    Output,
    Target,
    Task,
    find_scores,
    score_labels,
    string,
    windows_by_text,
)
from bertline.tasks.tokens import Encoded, Ids, Text, refuse_lone_surrogates
from bertline.tasks.words import UNSPACED, Span, words

NONE = -1
"""Index of a word's token if the window has none."""


class TokenClassification(Task):
    """Entities in a text. In a long text, each word is labelled in the window that has the most context around it."""

    architecture = "ForTokenClassification"
    gold = "tags"
    instead = ("tokens", "entities")

    @cached_property
    def types(self) -> list[str]:
        """The types of entities, in the order of the labels."""
        return _types(self.labels)

    def read_texts(self, row: Mapping[str, Any], columns: Columns, where: str) -> Text:
        """The text of a row, or its tokens joined by blanks. Raises InputError, see `Task.read_texts`."""
        if row.get(columns.text) is None and row.get(columns.tokens) is not None:
            return _join_tokens(row, columns, where)[0], None
        return string(row, columns.text, where), None

    def read(self, row: Mapping[str, Any], columns: Columns, where: str) -> Example:
        """The example of a row: a text and its entities, or tokens and their tags. Raises InputError, see `Task.read`.

        Entities are objects with start, end (in characters) and label. Tags are IOB1, IOB2, BIOES, BMES or BILOU, or
        indices into `labels`; tokens are joined by blanks, where the script has any.
        """
        if row.get(columns.entities) is not None:
            text = string(row, columns.text, where)
            return Example(
                text, None, _read_entities(text, row[columns.entities], f"{where}: column {columns.entities!r}")
            )
        if row.get(columns.tokens) is None:
            needed = f"columns {columns.text!r} and {columns.entities!r}, or {columns.tokens!r} and {columns.tags!r}"
            raise InputError(f"{where}: nothing is labelled; {needed}, are expected")
        text, places = _join_tokens(row, columns, where)
        tags = self._spelled_tags(row, columns.tags, where)
        if len(tags) != len(places):
            raise InputError(f"{where}: {len(places)} tokens but {len(tags)} tags; one tag for each token is expected")
        found = spans(tags)
        return Example(text, None, [_entity(label, places[first][0], places[last][1]) for label, first, last in found])

    def _spelled_tags(self, row: Mapping[str, Any], column: str, where: str) -> list[str]:
        """The tags of a row; integers are indices into `labels`."""
        value = row.get(column)
        if not isinstance(value, list) or not value or any(type(tag) is not int for tag in value):
            return _read_strings(row, column, where)
        if not self.labels:
            advice = (
                "name the types that they stand for: with data.labels [PER, LOC], 1 is B-PER, 2 I-PER, 3 B-LOC; or, in "
                "another order, all tags: [O, B-PER, B-LOC, I-PER, I-LOC]"
            )
            raise InputError(f"{where}: column {column!r} holds numbers; {advice}")
        if unknown := [tag for tag in value if not 0 <= tag < len(self.labels)]:
            known = f"0 to {len(self.labels) - 1} stand for {', '.join(self.labels)}"
            raise InputError(f"{where}: column {column!r} holds {unknown[0]}; {known}")
        return [self.labels[tag] for tag in value]

    def lacks(self, names: Container[str], labelled: bool = False) -> list[str]:
        """Like `Task.lacks`: a text or tokens are required; if labelled, text and entities, or tokens and tags."""
        if "text" in names and (not labelled or "entities" in names):
            return []
        if "tokens" in names:
            return [self.gold] if labelled and self.gold not in names else []
        return ["entities" if "text" in names else "tokens"] if labelled else ["text"]

    def row(self, example: Example) -> dict[str, Any]:
        """The example as a line of a split file."""
        return {"text": example.text, "entities": example.gold}

    def find_labels(self, examples: Iterable[Example]) -> list[str]:
        """O, then B- and I- for each type of entity, types sorted."""
        return self.name_labels(sort_labels({entity["label"] for example in examples for entity in example.gold}))

    def name_labels(self, names: Sequence[str]) -> list[str]:
        """O, then B- and I- for each type of entity, or for the types of the tags if O is among `names`."""
        types = _types(names) if "O" in names else names
        return ["O", *(prefix + name for name in types for prefix in ("B-", "I-"))]

    def indexed(self, names: Sequence[str]) -> list[str]:
        """The tags as they are listed, if O is among them; else as for `name_labels`."""
        return list(names) if "O" in names else self.name_labels(names)

    def named(self, example: Example) -> list[str]:
        """The type of each of its entities."""
        return [entity["label"] for entity in example.gold]

    def correct_answer(self, example: Example) -> Answer:
        """Its entities."""
        return {"entities": example.gold}

    def wrong_answer(self, example: Example) -> Answer:
        """Its entities with their ends shifted, each a false negative and a false positive; one if there are none."""
        shifted = [{**entity, "end": entity["end"] + 1} for entity in example.gold]
        return {"entities": shifted or [_entity(self.types[0], 0, 1)]}

    def check(self, example: Example, where: str) -> Example:
        """The unchanged example.

        Raises:
            InputError: the type of an entity is unknown.
        """
        unknown = sorted({entity["label"] for entity in example.gold} - set(self.types))
        if unknown:
            raise InputError(f"{where}: unknown entities {', '.join(unknown)}; known are {', '.join(self.types)}")
        return example

    def target(self, example: Example, window: Encoded) -> Target:
        """(tokens,) index of each word's tag at its first sub-word, IGNORED elsewhere.

        A token that several words share has the tag of the first.
        """
        target = np.full(len(window.input_ids), IGNORED, np.int64)
        if example.gold is None:
            return target
        found = words(example.text)
        index = {tag: number for number, tag in enumerate(self.labels)}
        places, tags = first_tokens(example.text, found, window), _tag_words(found, example.gold)
        for token, tag in zip(reversed(places.tolist()), reversed(tags), strict=True):
            if token != NONE:
                target[token] = index[tag]
        return target

    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """The entities of each text in order: label, score (mean probability over its words), start, end, text."""
        own = windows_by_text(len(texts), windows)
        return [
            {
                "entities": self._find_entities(
                    text, [windows[index] for index in indices], [outputs[index] for index in indices]
                )
            }
            for (text, _), indices in zip(texts, own, strict=True)
        ]

    def counts(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
        """True positives, gold and predicted entities, each by type."""
        counts = np.zeros((len(examples), 3, len(self.types)))
        index = {label: number for number, label in enumerate(self.types)}
        for row, example, answer in zip(counts, examples, answers, strict=True):
            true, found = (set(self.comparable({"entities": each})) for each in (example.gold, answer["entities"]))
            for count, entities in zip(row, (true & found, true, found), strict=True):
                for label, _, _ in entities:
                    count[index[label]] += 1
        return counts.reshape(len(examples), -1)

    def values(self, counts: Counts) -> dict[str, Counts]:
        """f1, precision and recall over all entities, each (…,). A share of 0 entities is 0."""
        right, true, found = (part.sum(axis=-1) for part in np.split(counts, 3, axis=-1))
        return find_scores(right, true, found)

    def per_label(self, counts: Counts) -> dict[str, dict[str, float]]:
        """The scores of each type of entity."""
        return score_labels(self.types, *np.split(counts, 3))

    def comparable(self, answer: Answer) -> Any:
        """(label, start, end) of each entity."""
        return [(entity["label"], entity["start"], entity["end"]) for entity in answer["entities"]]

    def _find_entities(self, text: str, windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """The entities of a text, from all its windows."""
        places = words(text)
        logits = np.zeros((len(places), len(self.labels)))
        context, token = np.full(len(places), NONE), np.full((len(places), 2), NONE)
        for number, (window, output) in enumerate(zip(windows, outputs, strict=True)):
            first = first_tokens(text, places, window)
            around = np.minimum(first, len(window.input_ids) - 1 - first)  # tokens to the nearer edge
            better = np.flatnonzero((first != NONE) & (around > context))
            logits[better], context[better] = output[first[better]], around[better]
            token[better] = np.stack([np.full(len(better), number), first[better]], axis=1)
        read = np.flatnonzero(context != NONE)  # words that the normalizer deletes do not interrupt an entity
        logits, token = logits[read], token[read]
        tags = [self.labels[best] for best in logits.argmax(axis=1)]
        for index in np.flatnonzero((token[1:] == token[:-1]).all(axis=1)) + 1:
            tags[index] = re.sub("^B-", "I-", tags[index])  # words that share a token are one entity
        score = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)  # softmax of the best label
        return [
            _tell_entity(text, label, places[read[first]][0], places[read[last]][1], score[first : last + 1])
            for label, first, last in spans(tags)
        ]


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(label, first, last) of each entity in a sequence of tags, as in conlleval.pl and seqeval (not strict).

    IOB1, IOB2, BIOES, BMES and BILOU are read alike: an entity ends where a tag begins another, has another label or
    is O. A tag without prefix (LOC) is read as I-LOC; a prefix without label (B) has the label _.
    """
    found: list[tuple[str, int, int]] = []
    before, of = "O", ""
    for index, tag in enumerate(tags):
        match = _TAG.fullmatch(tag)
        prefix, label = (match[1], match[2] or "_") if match else ("I", tag)
        if prefix in "BSU" or (prefix != "O" and (before in "OESLU" or label != of)):
            found.append((label, index, index))
        elif prefix != "O":
            found[-1] = (label, found[-1][1], index)
        before, of = prefix, label
    return found


def first_tokens(text: str, places: Sequence[Span], window: Encoded) -> Ids:
    """(words,) index in a window of each word's first sub-word, or NONE.

    It is the first token that begins in the word (ignoring blanks at a token's edges, which some tokenizers keep) or,
    if there is none, the token that covers the word's beginning, which words then share. A word that begins before the
    window has its first sub-word in an earlier one.

    Args:
        text: the text of the window, the first of a pair.
        places: spans of the words, in order.
        window: the window.
    """
    tokens = []
    for index in np.flatnonzero(window.sequence == 0).tolist():
        start, end = window.offsets[index].tolist()
        piece = text[start:end]
        if piece.strip():
            tokens.append((start + len(piece) - len(piece.lstrip()), end, index))
    if not tokens or not places:
        return np.full(len(places), NONE, np.int64)
    starts, ends, indices = np.array(tokens, np.int64).T
    begin, end = np.array(places, np.int64).T
    after = np.searchsorted(starts, begin)  # the first token that begins no earlier than the word
    before = after - 1
    begun = np.append(starts, len(text))[after] < end
    begun &= (after > 0) | (begin == starts[0])
    covered = (before >= 0) & (ends[before] > begin)
    return np.where(begun, np.append(indices, NONE)[after], np.where(covered, indices[before], NONE))


_TAG = re.compile(r"([OBIESLU]|M(?=-))(?:-(.*))?", re.DOTALL)
_CLOSED = re.compile(f"[{UNSPACED}]{{2}}")
"""Two letters of a script that has no blanks between words."""


def _types(tags: Iterable[str]) -> list[str]:
    """The types of entities that tags are of, in their order."""
    return list(dict.fromkeys(label for tag in tags for label, _, _ in spans([tag])))


def _read_strings(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    """Read a column of non-blank strings, stripped of surrounding blanks."""
    value = row.get(column)
    if not isinstance(value, list):
        raise InputError(f"{where}: column {column!r} holds {value!r:.60}; a list of strings is expected")
    for number, one in enumerate(value, start=1):
        if not isinstance(one, str) or not one.strip():
            raise InputError(
                f"{where}: column {column!r} item {number} is {one!r:.60}; a string, not blank, is expected"
            )
        refuse_lone_surrogates(one, f"{where}: column {column!r} item {number}")
    return [one.strip() for one in value]


def _join_tokens(row: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, list[Span]]:
    """The tokens of a row joined by blanks, where their script has any, and the span of each token."""
    text, places = "", []
    for token in _read_strings(row, columns.tokens, where):
        text += " " if text and not _CLOSED.fullmatch(text[-1] + token[0]) else ""
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def _read_entities(text: str, value: Any, where: str) -> list[dict[str, Any]]:
    """Check and sort the entities of a row."""
    if not isinstance(value, list):
        raise InputError(f"{where} holds {value!r:.60}; a list of objects is expected")
    faults = [f"{where}: entity {each!r:.120}: {fault}" for each in value if (fault := _fault(text, each))]
    if faults:
        raise InputError(*faults)
    for each in value:
        refuse_lone_surrogates(each["label"], f"{where}: the label of an entity")
    found = sorted(
        (_entity(each["label"], each["start"], each["end"]) for each in value), key=lambda each: each["start"]
    )
    for one, other in pairwise(found):
        if other["start"] < one["end"]:
            raise InputError(f"{where}: entities {one} and {other} overlap; a character may be of one entity only")
    return found


def _fault(text: str, entity: Any) -> str | None:
    """What is wrong with an entity; None if nothing is."""
    if not isinstance(entity, dict) or not {"start", "end", "label"} <= entity.keys():
        return "an object with start, end and label is expected"
    start, end, label = entity["start"], entity["end"], entity["label"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return f"start and end must be characters of the text: 0 <= start < end <= {len(text)}"
    if not isinstance(label, str) or not label.strip():
        return "label must be a string, not empty"
    if text[start:end] != text[start:end].strip():
        return f"{text[start:end]!r:.60} begins or ends with a blank; move start or end to a word's edge"
    return None


def _entity(label: str, start: int, end: int) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def _tell_entity(text: str, label: str, start: int, end: int, score: npt.NDArray[np.float64]) -> dict[str, Any]:
    return {"label": label, "score": float(score.mean()), "start": start, "end": end, "text": text[start:end]}


def _tag_words(places: Sequence[Span], entities: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tag of each word. A word that two entities overlap belongs to the first."""
    tags = ["O"] * len(places)
    starts, ends = [start for start, _ in places], [end for _, end in places]
    for entity in entities:
        touched = range(bisect_right(ends, entity["start"]), bisect_left(starts, entity["end"]))
        free = [word for word in touched if tags[word] == "O"]
        for word in free:
            tags[word] = f"{'B' if word == free[0] else 'I'}-{entity['label']}"
    return tags
