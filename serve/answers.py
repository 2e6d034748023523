"""What a bundle answers, typed: one class for each kind of question."""

from dataclasses import dataclass
from typing import Any

from bertline.tasks.task import Answer


@dataclass(frozen=True)
class Classification:
    """The likeliest label of a text or pair."""

    label: str
    score: float
    """Its probability."""
    scores: dict[str, float]
    """The probabilities of all labels."""
    truncated: bool = False
    """The text was longer than what the model reads of it; so in all classes here."""


@dataclass(frozen=True)
class MultiLabel:
    """The labels of a text that may have any number of them."""

    labels: list[str]
    """Those whose probability reaches their threshold."""
    scores: dict[str, float]
    """The probability of each label by itself."""
    truncated: bool = False


@dataclass(frozen=True)
class Regression:
    """The number that a model gives a text."""

    value: float
    truncated: bool = False


@dataclass(frozen=True)
class Entity:
    """Characters of a text that are something."""

    label: str
    score: float
    """The mean probability of its words."""
    start: int
    end: int
    """text[start:end] is `text`."""
    text: str


@dataclass(frozen=True)
class Entities:
    """What stands in a text, in order."""

    entities: list[Entity]
    truncated: bool = False


@dataclass(frozen=True)
class Span:
    """Characters of a context that may be the answer."""

    answer: str
    score: float
    """Its probability among the best spans."""
    start: int
    end: int


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to a question."""

    answer: str
    """Empty where the context does not answer."""
    score: float
    start: int
    end: int
    """context[start:end] is `answer`."""
    n_best: list[Span]
    """The best spans, the best first."""
    no_answer_score: float | None = None
    """How much better than the best span no answer is; None where the model always answers, or there is no span."""
    truncated: bool = False


Typed = Classification | MultiLabel | Regression | Entities | QuestionAnswer


def typed(answer: Answer) -> Typed:
    """An answer of a task, as its class."""
    fields: dict[str, Any] = dict(answer)
    if "entities" in fields:
        fields["entities"] = [Entity(**one) for one in fields["entities"]]
        return Entities(**fields)
    if "answer" in fields:
        fields["n_best"] = [Span(**one) for one in fields["n_best"]]
        return QuestionAnswer(**fields)
    kind = Regression if "value" in fields else MultiLabel if "labels" in fields else Classification
    return kind(**fields)
