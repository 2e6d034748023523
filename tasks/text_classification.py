"""Text classification: one text or a pair of texts, two or more classes, exactly one of them right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError
from bertline.tasks.tokens import Text

Logits = npt.NDArray[np.float32]


class Example(NamedTuple):
    """A labelled text; `label` is a name."""

    text: str
    text_pair: str | None
    label: str

    @property
    def texts(self) -> Text:
        """What the tokenizer takes."""
        return self.text, self.text_pair

    def row(self) -> dict[str, str]:
        """The example as a line of a split file."""
        pair = {} if self.text_pair is None else {"text_pair": self.text_pair}
        return {"text": self.text, **pair, "label": self.label}


class Columns(NamedTuple):
    """Which columns of a row hold what."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"


def read(row: Mapping[str, Any], columns: Columns, where: str) -> Example:
    """Make an example of a row. A label may be a string, a whole number or a truth value; its name is its spelling.

    Raises:
        InputError: a text is missing or no string, or the label is missing; the sentence starts with `where`.
    """
    label = row.get(columns.label)
    if label is None or label == "":
        raise InputError(f"{where}: no label in column {columns.label!r}")
    if not isinstance(label, (str, int)):
        raise InputError(f"{where}: label {label!r:.60} is a {type(label).__name__}; a name or a whole number would do")
    text, pair = read_text(row, columns, where)
    return Example(text, pair, str(label))


def read_text(row: Mapping[str, Any], columns: Columns, where: str) -> Text:
    """The text or pair of texts of a row.

    Raises:
        InputError: as `read`.
    """
    text = _string(row, columns.text, where)
    return text, None if columns.text_pair is None else _string(row, columns.text_pair, where)


def read_labelled(path: Path, labels: Sequence[str], columns: Columns | None = None) -> list[Example]:
    """All examples of a file whose labels are names in `labels` or indices into it.

    Args:
        path: a split of a run, or any file that `tables.rows` reads.
        labels: the names for 0, 1, ….
        columns: which hold what; by default `text`, `label` and, where the file has it, `text_pair`.

    Raises:
        InputError: as `read`, or a label that is not in `labels`.
    """
    if columns is None:
        columns = Columns(text_pair="text_pair" if "text_pair" in tables.columns(path) else None)
    return [named(read(row, columns, where), labels, where) for where, row in tables.rows(path)]


def named(example: Example, labels: Sequence[str], where: str) -> Example:
    """The example with its label as a name: an index into `labels` is replaced by the name there.

    Raises:
        InputError: the label is neither a name nor an index of `labels`.
    """
    if example.label in labels:
        return example
    if example.label.isdecimal() and int(example.label) < len(labels):
        return example._replace(label=labels[int(example.label)])
    raise InputError(
        f"{where}: unknown label {example.label!r}; known are {', '.join(labels)}, or 0 to {len(labels) - 1}"
    )


def decode(logits: Logits, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The answer for each row of `logits` (texts, labels): the likeliest label, its probability, and all of them."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    answers = []
    for row in (shifted / shifted.sum(axis=1, keepdims=True)).tolist():
        best = int(np.argmax(row))
        answers.append({"label": labels[best], "score": row[best], "scores": dict(zip(labels, row, strict=True))})
    return answers


def score(logits: Logits, gold: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
    """Score predictions against the truth, by scikit-learn.

    Args:
        logits: (texts, labels).
        gold: index of the right label of each text.
        labels: their names.

    Returns:
        accuracy; precision, recall and f1 (of labels[1] where there are two, else macro); macro_f1; and per_label.
        A label that was never predicted counts with precision 0.
    """
    from sklearn.metrics import precision_recall_fscore_support  # training and measuring have it; serving does without

    predicted = logits.argmax(axis=1)
    indices = list(range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, predicted, labels=indices, average=None, zero_division=0.0
    )
    one = 1 if len(labels) == 2 else slice(None)  # the positive class, or the mean over all
    return {
        "accuracy": float(np.mean(predicted == np.asarray(gold))),
        "precision": float(np.mean(precision[one])),
        "recall": float(np.mean(recall[one])),
        "f1": float(np.mean(f1[one])),
        "macro_f1": float(np.mean(f1)),
        "per_label": {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, name in enumerate(labels)
        },
    }


def _string(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        found = "nothing" if value is None else f"a {type(value).__name__} ({value!r:.60})"
        raise InputError(f"{where}: column {column!r} holds {found}; a string is expected")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: column {column!r} holds a lone surrogate, which is no text") from None
    return value
