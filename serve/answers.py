"""Typed answers: one class for each kind of task."""

from dataclasses import dataclass
from typing import Any

from bertline.tasks.task import Answer


@dataclass(frozen=True)
class Classification:
    """The most likely label of a text or pair."""

    label: str
    score: float
    """Probability of the label."""
    scores: dict[str, float]
    """Probability of every label."""
    truncated: bool = False
    """Whether the text was longer than what the model reads; the same in all classes here."""


@dataclass(frozen=True)
class MultiLabel:
    """The labels of a text that may have any number of labels."""

    labels: list[str]
    """Labels whose probability reaches their threshold."""
    scores: dict[str, float]
    """Probability of every label, each independent of the others."""
    truncated: bool = False


@dataclass(frozen=True)
class Regression:
    """The number that a model predicts for a text."""

    value: float
    truncated: bool = False


@dataclass(frozen=True)
class Entity:
    """A labelled span of a text, counted in characters."""

    label: str
    score: float
    """Mean probability of its words."""
    start: int
    end: int
    """`start:end` of the input is `text`."""
    text: str


@dataclass(frozen=True)
class Entities:
    """The entities of a text, in order."""

    entities: list[Entity]
    truncated: bool = False


@dataclass(frozen=True)
class Span:
    """A span of a context that may be the answer, counted in characters."""

    answer: str
    score: float
    """Probability among the best spans."""
    start: int
    end: int


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to a question."""

    answer: str
    """Empty if the context does not answer the question."""
    score: float
    start: int
    end: int
    """`start:end` of the context is `answer`."""
    n_best: list[Span]
    """The best spans, best first."""
    no_answer_score: float | None = None
    """Score of no answer minus that of the best span; None if the model always answers, or found no span."""
    truncated: bool = False


Typed = Classification | MultiLabel | Regression | Entities | QuestionAnswer


def typed(answer: Answer) -> Typed:
    """Convert a task's answer to its class."""
    fields: dict[str, Any] = dict(answer)
    if "entities" in fields:
        fields["entities"] = [Entity(**one) for one in fields["entities"]]
        return Entities(**fields)
    if "answer" in fields:
        fields["n_best"] = [Span(**one) for one in fields["n_best"]]
        return QuestionAnswer(**fields)
    kind = Regression if "value" in fields else MultiLabel if "labels" in fields else Classification
    return kind(**fields)
