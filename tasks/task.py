"""The one interface of all tasks: read, encode, decode and score, for training, export, benchmark and server alike.

A text is encoded into one window or more; the model gives an output for each window; a task makes one answer of all
windows of a text, and counts it against what is right. Scores are made of those counts, so that the same definition
serves for a split, for a benchmark and for the bootstrap of a drop.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision, TaskSettings
from bertline.tasks.tokens import Encoded, Text, Tokenizer, refuse_lone_surrogates

Output = npt.NDArray[np.float32]
"""What the model gives for a window: (labels,), or (tokens, channels) from a head on every token."""
Target = npt.NDArray[Any]
"""Of a window: a class, a value, one for each label, or one for each token."""
Answer = dict[str, Any]
"""As JSON."""
Counts = npt.NDArray[np.float64]
IGNORED = -100
"""A target that no loss is taken of, as PyTorch has it."""
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
"""A label that is called so: 1 might be its name or an index."""
NAMELESS = re.compile(r"LABEL_\d+")
"""What transformers calls a label that nobody has named."""


class Example(NamedTuple):
    """A text (or pair, or question with its context) and what is right for it, as plain JSON values."""

    text: str
    text_pair: str | None
    gold: Any
    """A label, a list of labels, a number, entities, or answers: the task knows. None: nobody has labelled it."""

    @property
    def texts(self) -> Text:
        """What the tokenizer takes."""
        return self.text, self.text_pair


class Columns(NamedTuple):
    """Which columns of a row hold what."""

    text: str = "text"
    text_pair: str | None = None
    label: str | list[str] = "label"
    """A list: a column for each label, which holds whether the row has it."""
    tokens: str = "tokens"
    tags: str = "tags"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"


class Task(ABC):
    """A task with the labels and settings of one model."""

    architecture: ClassVar[str]
    """How transformers' classes for it end, ForSequenceClassification for example."""
    gold: ClassVar[str]
    """The column of what is right, by default."""
    instead: ClassVar[Sequence[str]] = ()
    """Columns that may stand in the place of its inputs."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.labels = settings.labels

    # reading

    @abstractmethod
    def read_texts(self, row: Mapping[str, Any], columns: Columns, where: str) -> Text:
        """What a row asks.

        Raises:
            InputError: a column is missing or of another type; the sentence starts with `where`.
        """

    @abstractmethod
    def read(self, row: Mapping[str, Any], columns: Columns, where: str) -> Example:
        """The labelled example of a row.

        Raises:
            InputError: as `read_texts`, or what is right is missing or makes no sense.
        """

    @abstractmethod
    def row(self, example: Example) -> dict[str, Any]:
        """The example as a line of a split file, which `read` takes with the default columns."""

    @abstractmethod
    def find_labels(self, examples: Iterable[Example]) -> list[str]:
        """The labels that examples have, as `sort_labels`, for `settings.labels` to name the outputs."""

    def name_labels(self, names: Sequence[str]) -> list[str]:
        """The labels of a model that tells `names` apart, as a recipe lists them."""
        return list(names)

    def check(self, example: Example, where: str) -> Example:
        """The example with its labels as they are named.

        Raises:
            InputError: a label is unknown.
        """
        return example

    def named(self, example: Example) -> list[str]:
        """The labels of an example, to be counted; none where what is right is no label."""
        return []

    def stratum(self, example: Example) -> str | None:
        """What splits keep in proportion; None where there is nothing of the kind."""
        return None

    def unit(self, example: Example) -> Sequence[str | None]:
        """What is cut whole: examples with the same are in one split."""
        return example.texts

    @abstractmethod
    def correct_answer(self, example: Example) -> Answer:
        """The right answer, as far as it is counted."""

    @abstractmethod
    def wrong_answer(self, example: Example) -> Answer | None:
        """An answer that is not right, as far as it is counted; None where answers are only nearer or farther."""

    def columns(self, named: Mapping[str, str] = {}) -> Columns:
        """Those of a file that names them as bertline does, or as in `named`; a second text where the task has one.

        Raises:
            InputError: `named` has what this task does not read.
        """
        known = [*self.settings.inputs, *self.instead, self.gold]
        if unknown := [name for name in named if name not in known]:
            raise InputError(f"no column is called {unknown[0]!r} here; known are {', '.join(known)}")
        columns = Columns(text_pair="text_pair" if "text_pair" in self.settings.inputs else None)
        return columns._replace(**named)

    def lacks(self, names: Container[str], labelled: bool = False) -> list[str]:
        """Those of `columns` that are read, of texts or of labelled examples, and are not among `names`."""
        return [name for name in [*self.settings.inputs, *[self.gold] * labelled] if name not in names]

    def missing(self, names: Iterable[str], named: Mapping[str, str], labelled: bool = False) -> list[str]:
        """As `lacks`, of a file that names its columns as in `named`, and by its own names."""
        ours = {ours for ours, theirs in named.items() if theirs in names} | {*names} - named.keys()
        return [named.get(name, name) for name in self.lacks(ours, labelled)]

    def read_file(self, path: Path, named: Mapping[str, str] = {}) -> list[Example]:
        """All labelled examples of a split of a run, or of any file with those columns, or as they are `named`.

        Numbers are read as the names that the file has for them, if any; where the model's have none, as its indices.

        Raises:
            InputError: as `columns`, `read` and `check`; or the first row lacks a column.
        """
        columns, names = self.columns(named), tables.columns(path)
        nameless = all(map(NAMELESS.fullmatch, self.labels))
        if missing := self.missing(names, named, labelled=True):
            advice = f"labelled examples have these columns, or others that are named: --column {self.gold}=COLUMN"
            raise InputError(f"{tables.lacking(path, missing, names)}; {advice}")
        rows = tables.rows(path, lambda column, names: not nameless)  # or its names would all be unknown
        return [self.check(self.read(row, columns, where), where) for where, row in rows]

    # computing

    def tokenizer(self, folder: Path, kept: Mapping[str, bytes] | None = None) -> Tokenizer:
        """The tokenizer of a model folder, or of what is kept of its files, reading texts as this task does."""
        return Tokenizer(folder, self.settings.tokens, kept=kept)

    @abstractmethod
    def target(self, example: Example, window: Encoded) -> Target:
        """What the model is to learn of a window: one class or value, one for each label, or one for each token.

        Of an example whose `gold` is None there is nothing to learn: IGNORED, or a number that is none.
        """

    @abstractmethod
    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """An answer for each text.

        Args:
            texts: what was asked.
            windows: of those texts, in their order.
            outputs: the model's, one a window.
        """

    def tune(
        self, examples: Sequence[Example], windows: Sequence[Encoded], outputs: Sequence[Output], metric: str
    ) -> Decision:
        """The decision by which a validation split scores best in `metric`, or in what stands for it; the present one
        where there is nothing to tune.
        """
        return self.settings.decision

    def with_decision(self, decision: Decision) -> "Task":
        """The same task, deciding otherwise."""
        return type(self)(self.settings.model_copy(update={"decision": decision}))

    # scoring

    @abstractmethod
    def counts(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
        """What scores are made of: (examples, counts), of which any selection may be summed."""

    @abstractmethod
    def values(self, counts: Counts) -> dict[str, Counts]:
        """Scores by name, of sums of counts (…, counts): each (…,)."""

    def per_label(self, counts: Counts) -> dict[str, dict[str, float]]:
        """Of summed counts the scores of each label, where labels are found; as `score_labels`."""
        return {}

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
        """All scores of answers to labelled examples, plain values, and `per_label` where there is any."""
        summed = self.counts(examples, answers).sum(axis=0)
        scores = {name: float(value) for name, value in self.values(summed).items()}
        per_label = self.per_label(summed)
        return {**scores, "per_label": per_label} if per_label else scores

    @abstractmethod
    def comparable(self, answer: Answer) -> Any:
        """What of an answer is compared when systems are asked whether they agree: all but probabilities."""

    def agreement(self, answers: Sequence[Answer], others: Sequence[Answer]) -> float:
        """The share of texts that two systems answer alike."""
        alike = [self.comparable(one) == self.comparable(other) for one, other in zip(answers, others, strict=True)]
        return float(np.mean(alike))


def sort_labels(names: Iterable[str]) -> list[str]:
    """Names as they are ordered where nobody orders them: by their value if all are numbers, else as strings."""
    names = sorted(names)
    return sorted(names, key=float) if all(map(NUMBER.fullmatch, names)) else names


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Counts:
    """What part of a whole; of nothing none is."""
    return np.asarray(part / np.where(whole == 0, 1, whole))


def find_scores(right: Counts, true: Counts, found: Counts) -> dict[str, Counts]:
    """What finding is worth, by how many were found rightly, are there to be found, and were found."""
    return {"f1": share(2 * right, true + found), "precision": share(right, found), "recall": share(right, true)}


def score_labels(labels: Sequence[str], right: Counts, true: Counts, found: Counts) -> dict[str, dict[str, float]]:
    """By label its `find_scores`, of (labels,) each, and how often it is to be found (support)."""
    scores = find_scores(right, true, found)
    return {
        label: {**{name: float(each[index]) for name, each in scores.items()}, "support": int(true[index])}
        for index, label in enumerate(labels)
    }


def string(row: Mapping[str, Any], column: str, where: str) -> str:
    """A column that must hold a text.

    Raises:
        InputError: it holds something else, or nothing.
    """
    value = row.get(column)
    if not isinstance(value, str):
        found = "nothing" if value is None else f"a {type(value).__name__} ({value!r:.60})"
        raise InputError(f"{where}: column {column!r} holds {found}; a string is expected")
    refuse_lone_surrogates(value, f"{where}: column {column!r}")
    return value


def windows_by_text(texts: int, windows: Sequence[Encoded]) -> list[list[int]]:
    """The indices of each text's windows."""
    found: list[list[int]] = [[] for _ in range(texts)]
    for index, window in enumerate(windows):
        found[window.text].append(index)
    return found
