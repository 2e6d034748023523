"""The interface of all tasks: read, encode, decode and score, for training, export, benchmarks and the server.

A text is encoded into one or more windows; the model gives an output for each window; the task turns the outputs of all
windows of a text into one answer, and compares it with the gold answer in counts. Scores are computed from summed
counts, so that one definition serves a split, a benchmark and the bootstrap of a drop.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.readers.class_labels import Spell
from bertline.artifacts.task import Decision, TaskSettings
from bertline.tasks.tokens import Encoded, Text, Tokenizer, refuse_lone_surrogates

Output = npt.NDArray[np.float32]
"""The model's logits for a window: (labels,), or (tokens, channels) from a head on every token."""
Target = npt.NDArray[Any]
"""The training target of a window: a class, a value, one value per label, or one class per token."""
Answer = dict[str, Any]
"""An answer as plain JSON values."""
Counts = npt.NDArray[np.float64]
IGNORED = -100
"""A target that PyTorch's loss ignores."""


class Example(NamedTuple):
    """A text (or pair, or question with its context) and its gold answer, as plain JSON values."""

    text: str
    text_pair: str | None
    gold: Any
    """A label, a list of labels, a number, entities, or answers, depending on the task. None: unlabelled."""

    @property
    def texts(self) -> Text:
        """The input of the tokenizer."""
        return self.text, self.text_pair


class Columns(NamedTuple):
    """The names of the columns of a row."""

    text: str = "text"
    text_pair: str | None = None
    label: str | list[str] = "label"
    """A list: one column per label, which tells whether the row has it."""
    tokens: str = "tokens"
    tags: str = "tags"
    entities: str = "entities"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"


class Task(ABC):
    """A task with the labels and settings of one model."""

    architecture: ClassVar[str]
    """Suffix of transformers' classes for the task, for example ForSequenceClassification."""
    gold: ClassVar[str]
    """Default column of the gold answers."""
    instead: ClassVar[Sequence[str]] = ()
    """Columns that may replace its inputs."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.labels = settings.labels

    # reading

    @abstractmethod
    def read_texts(self, row: Mapping[str, Any], columns: Columns, where: str) -> Text:
        """The text or texts of a row.

        Raises:
            InputError: a column is missing or has another type; the message starts with `where`.
        """

    @abstractmethod
    def read(self, row: Mapping[str, Any], columns: Columns, where: str) -> Example:
        """The labelled example of a row.

        Raises:
            InputError: see `read_texts`; or the gold answer is missing or invalid.
        """

    @abstractmethod
    def row(self, example: Example) -> dict[str, Any]:
        """The example as a row of a split file, which `read` reads with the default columns."""

    @abstractmethod
    def find_labels(self, examples: Iterable[Example]) -> list[str]:
        """The labels that occur in examples, ordered as by `labels.sort_labels`, to name the model's outputs."""

    def name_labels(self, names: Sequence[str]) -> list[str]:
        """The output labels of a model for the `names` that a recipe lists."""
        return list(names)

    def indexed(self, names: Sequence[str]) -> list[str]:
        """The labels that integers in rows are indices into, for the `names` that a recipe lists."""
        return self.name_labels(names)

    def check(self, example: Example, where: str) -> Example:
        """The example with its labels spelled as in `labels`.

        Raises:
            InputError: a label is unknown.
        """
        return example

    def named(self, example: Example) -> list[str]:
        """The labels of an example, for counting; none if the task has no labels."""
        return []

    def stratum(self, example: Example) -> str | None:
        """The stratum of an example: splits keep the proportions of strata. None: no stratification."""
        return None

    def unit(self, example: Example) -> Sequence[str | None]:
        """The group of an example: examples with the same group stay in one split."""
        return example.texts

    @abstractmethod
    def correct_answer(self, example: Example) -> Answer:
        """The correct answer, with the keys that are scored."""

    @abstractmethod
    def wrong_answer(self, example: Example) -> Answer | None:
        """A wrong answer, with the keys that are scored; None for regression, which has only better and worse ones."""

    def columns(self, named: Mapping[str, str] = {}) -> Columns:
        """The columns of a file, with the default names or as in `named`, and a second text if the task has one.

        Raises:
            InputError: `named` has a column that this task does not read.
        """
        known = [*self.settings.inputs, *self.instead, self.gold]
        if unknown := [name for name in named if name not in known]:
            raise InputError(f"no column is called {unknown[0]!r} here; known are {', '.join(known)}")
        columns = Columns(text_pair="text_pair" if "text_pair" in self.settings.inputs else None)
        return columns._replace(**named)

    def lacks(self, names: Container[str], labelled: bool = False) -> list[str]:
        """The required columns, of texts or of labelled examples, that are not among `names`."""
        return [name for name in [*self.settings.inputs, *[self.gold] * labelled] if name not in names]

    def missing(self, names: Iterable[str], named: Mapping[str, str], labelled: bool = False) -> list[str]:
        """Like `lacks`, for a file that names its columns as in `named`; returns the file's own names."""
        ours = {ours for ours, theirs in named.items() if theirs in names} | {*names} - named.keys()
        return [named.get(name, name) for name in self.lacks(ours, labelled)]

    def spelling(self, columns: Columns) -> Spell:
        """The rule by which integers are read as the names that a file has for them.

        Only gold labels are, and only if `labels` contain at least one of the names, whatever its case, or are still to
        be found; otherwise the integers are indices into `labels`.
        """
        gold, regression = getattr(columns, self.gold), self.settings.problem_type == "regression"

        def spell(column: str, names: Sequence[str]) -> bool:
            known = {label.casefold() for label in self.labels}
            related = not known or not known.isdisjoint(name.casefold() for name in names)
            return column == gold and related and not regression

        return spell

    def read_file(self, path: Path, named: Mapping[str, str] = {}) -> list[Example]:
        """All labelled examples of a split file, or of any file with the same columns, or with columns as in `named`.

        Integers are read as `spelling` says: as the names that the file has for them, or as indices.

        Raises:
            InputError: see `columns`, `read` and `check`; or the first row lacks a column.
        """
        columns, names = self.columns(named), tables.columns(path)
        if missing := self.missing(names, named, labelled=True):
            advice = f"labelled examples have these columns, or others that are named: --column {self.gold}=COLUMN"
            raise InputError(f"{tables.lacking(path, missing, names)}; {advice}")
        rows = tables.rows(path, self.spelling(columns))
        return [self.check(self.read(row, columns, where), where) for where, row in rows]

    # computing

    def tokenizer(self, folder: Path, kept: Mapping[str, bytes] | None = None) -> Tokenizer:
        """The tokenizer of a model folder, set up for this task; `kept` holds its files if they are already read."""
        return Tokenizer(folder, self.settings.tokens, kept=kept)

    @abstractmethod
    def target(self, example: Example, window: Encoded) -> Target:
        """The training target of a window: one class or value, one value per label, or one class per token.

        For an unlabelled example it is IGNORED or NaN.
        """

    @abstractmethod
    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """One answer for each text.

        Args:
            texts: the input texts.
            windows: all windows of those texts, in their order.
            outputs: the model's output for each window.
        """

    def tune(
        self, examples: Sequence[Example], windows: Sequence[Encoded], outputs: Sequence[Output], metric: str
    ) -> Decision:
        """The decision with the best validation score in `metric`, or in a proxy for it; unchanged if there is nothing
        to tune.
        """
        return self.settings.decision

    def with_decision(self, decision: Decision) -> "Task":
        """The same task with another decision."""
        return type(self)(self.settings.model_copy(update={"decision": decision}))

    # scoring

    @abstractmethod
    def counts(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
        """The counts that scores are computed from: (examples, counts); any subset of rows may be summed."""

    @abstractmethod
    def values(self, counts: Counts) -> dict[str, Counts]:
        """Scores by name, each (…,), from summed counts (…, counts)."""

    def per_label(self, counts: Counts) -> dict[str, dict[str, float]]:
        """The scores of each label from summed counts, as `score_labels` gives them; empty for tasks without labels."""
        return {}

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
        """All scores of answers to labelled examples, and `per_label` if the task has labels."""
        summed = self.counts(examples, answers).sum(axis=0)
        scores = {name: float(value) for name, value in self.values(summed).items()}
        per_label = self.per_label(summed)
        return {**scores, "per_label": per_label} if per_label else scores

    @abstractmethod
    def comparable(self, answer: Answer) -> Any:
        """The part of an answer that is compared between systems: everything except probabilities."""

    def agreement(self, answers: Sequence[Answer], others: Sequence[Answer]) -> float:
        """The share of texts with the same answer from two systems."""
        alike = [self.comparable(one) == self.comparable(other) for one, other in zip(answers, others, strict=True)]
        return float(np.mean(alike))

    def distortion(self, answers: Sequence[Answer], others: Sequence[Answer]) -> float:
        """For regression, how much the other numbers are shifted and scaled as a whole, which no correlation shows.

        It is what this adds to their mean squared difference, relative to the variance of the first; 0 for other tasks.
        """
        return 0.0


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Counts:
    """`part` divided by `whole`; 0 where the whole is 0."""
    return np.asarray(part / np.where(whole == 0, 1, whole))


def find_scores(right: Counts, true: Counts, found: Counts) -> dict[str, Counts]:
    """F1, precision and recall from the numbers of true positives, of gold items, and of predicted items."""
    return {"f1": share(2 * right, true + found), "precision": share(right, found), "recall": share(right, true)}


def score_labels(labels: Sequence[str], right: Counts, true: Counts, found: Counts) -> dict[str, dict[str, float]]:
    """The `find_scores` of each label from (labels,) counts, and its number of gold items (support)."""
    scores = find_scores(right, true, found)
    return {
        label: {**{name: float(each[index]) for name, each in scores.items()}, "support": int(true[index])}
        for index, label in enumerate(labels)
    }


def string(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column.

    Raises:
        InputError: the column is missing or does not hold a string.
    """
    value = row.get(column)
    if not isinstance(value, str):
        found = "nothing" if value is None else f"a {type(value).__name__} ({value!r:.60})"
        raise InputError(f"{where}: column {column!r} holds {found}; a string is expected")
    refuse_lone_surrogates(value, f"{where}: column {column!r}")
    return value


def windows_by_text(texts: int, windows: Sequence[Encoded]) -> list[list[int]]:
    """The indices of the windows of each text."""
    found: list[list[int]] = [[] for _ in range(texts)]
    for index, window in enumerate(windows):
        found[window.text].append(index)
    return found
