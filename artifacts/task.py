"""What every stage must know of a task, in the same keys in run.json and in a bundle's manifest."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TaskName = Literal["text-classification", "token-classification", "question-answering"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Input = Literal["text", "text_pair", "question", "context"]
Long = Literal["head", "tail", "head+tail", "windows"]

SCORES: dict[str, tuple[str, ...]] = {
    "single_label_classification": (
        "accuracy", "precision", "recall", "f1", "macro_f1", "weighted_f1", "matthews_correlation",
    ),
    "multi_label_classification": (
        "micro_f1", "macro_f1", "weighted_f1", "precision", "recall", "f1", "accuracy",
    ),
    "regression": ("pearson", "spearman"),
    "token-classification": ("f1", "precision", "recall"),
    "question-answering": ("f1", "exact_match"),
}  # fmt: skip
"""What a task is measured in, by its name or, for text classification, by its problem type: 1 is best; the first is the
one that counts where nothing else is said."""


class Part(BaseModel):
    """A part of an artefact: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class Tokens(Part):
    """How texts become tokens."""

    max_length: int = Field(gt=0)
    """Tokens the model reads at once, special ones included."""
    stride: int = Field(0, ge=0)
    """Tokens that neighboring windows of a long text share."""
    long: Long = "head"
    """What is read of a text that is longer."""

    @property
    def unit(self) -> str:
        """What a model is given and answers for: texts, or windows of them."""
        return "windows" if self.long == "windows" else "texts"


class Decision(Part):
    """How the model's outputs become an answer; what is tuned is tuned on the validation split."""

    thresholds: list[float] | None = None
    """Multi-label: the least probability of each label that is given."""
    no_answer_threshold: float | None = None
    """Question answering: how much better than the best span "no answer" must score to be given; None: never."""
    max_answer_length: int = 30
    """Question answering: tokens in a span."""


class TaskSettings(Part):
    """A task as a model was trained for it."""

    task: TaskName
    problem_type: ProblemType | None = None
    """Of text classification, in transformers' words."""
    inputs: list[Input]
    """What is asked, by the names of its columns."""
    labels: list[str]
    """Names of the outputs 0, 1, …; empty for question answering."""
    tokens: Tokens
    decision: Decision = Decision()

    @property
    def alone(self) -> "TaskSettings":
        """These keys, without those of the run or bundle that they stand in."""
        return TaskSettings(**{name: getattr(self, name) for name in TaskSettings.model_fields})

    @property
    def shown(self) -> tuple[str, ...]:
        """The two scores that tables show."""
        return ("accuracy", "macro_f1") if self.scores[0] == "accuracy" else self.scores[:2]

    @property
    def scores(self) -> tuple[str, ...]:
        """What it is measured in, the usual one first."""
        return scores(self.task, self.problem_type)


def scores(task: TaskName, problem_type: ProblemType | None) -> tuple[str, ...]:
    """SCORES of a task."""
    return SCORES[problem_type or task]
