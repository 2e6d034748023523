"""What every stage must know about a task, under the same keys in run.json and in a bundle's manifest."""

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
"""Scores of each task, or of each problem type of text classification. 1 is best; the first score is the default
metric."""


class Part(BaseModel):
    """A part of an artifact: unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class Tokens(Part):
    """How texts become tokens."""

    max_length: int = Field(gt=0)
    """Number of tokens the model reads at once, special tokens included."""
    stride: int = Field(0, ge=0)
    """Number of tokens that neighboring windows of a long text share."""
    long: Long = "head"
    """Part that is read of a text longer than max_length."""

    @property
    def unit(self) -> str:
        """What the model reads one at a time, for messages: texts, or windows."""
        return "windows" if self.long == "windows" else "texts"


class Decision(Part):
    """How the model's outputs become an answer; thresholds are tuned on the validation split."""

    thresholds: list[float] | None = None
    """Multi-label: the probability from which each label is predicted."""
    no_answer_threshold: float | None = None
    """Question answering: the margin over the best span's score above which the answer is "no answer"; None: never."""
    max_answer_length: int = 30
    """Question answering: the longest answer, in tokens; after training, enough for 99 % of the validation split's."""


class TaskSettings(Part):
    """A task as a model was trained for it."""

    task: TaskName
    problem_type: ProblemType | None = None
    """Kind of text classification, as transformers names it; None for other tasks."""
    inputs: list[Input]
    """Names of the input columns."""
    labels: list[str]
    """Names of the outputs 0, 1, …; empty for question answering."""
    tokens: Tokens
    decision: Decision = Decision()

    @property
    def alone(self) -> "TaskSettings":
        """Only the keys of this class, without those that a run or bundle adds."""
        return TaskSettings(**{name: getattr(self, name) for name in TaskSettings.model_fields})

    @property
    def shown(self) -> tuple[str, ...]:
        """The two scores that tables show."""
        return ("accuracy", "macro_f1") if self.scores[0] == "accuracy" else self.scores[:2]

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores of this task, the default metric first."""
        return scores(self.task, self.problem_type)


def scores(task: TaskName, problem_type: ProblemType | None) -> tuple[str, ...]:
    """The entry of SCORES for a task."""
    return SCORES[problem_type or task]
