"""What labelled examples can show: whether there are enough of them, and how much a candidate loses on them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertline.artifacts import machine
from bertline.artifacts.errors import GateError
from bertline.artifacts.say import Say
from bertline.bench import compare
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.export import choose, systems
from bertline.export.choose import Score
from bertline.export.options import ExportOptions
from bertline.export.sources import Origin
from bertline.tasks import bootstrap
from bertline.tasks.task import Answer, Counts, Output
from bertline.tasks.tokens import Encoded, Text

RELATED = 0.3
"""Correlation of PyTorch's answers with the labels (Matthews) above which they clearly mean the same."""


@dataclass(frozen=True)
class Judge:
    """Compares candidates' answers with PyTorch's answers to the same examples."""

    origin: Origin
    before: Counts
    """The counts of PyTorch's answers."""
    answers: Sequence[Answer]
    """PyTorch's answers."""
    loss: Counts
    """The counts of one lost answer: see `bootstrap.worst_case_loss`."""
    options: ExportOptions

    @classmethod
    def of(cls, origin: Origin, options: ExportOptions, pytorch: System, outputs: Sequence[Output]) -> "Judge":
        """A judge that compares with `outputs`, PyTorch's for the examples.

        Raises:
            GateError: there are too few examples for any candidate to pass.
        """
        answers = compare.answers(pytorch, origin.examples, outputs)
        before = bootstrap.count_units(origin.task, origin.examples, answers)
        judge = cls(
            origin,
            before,
            answers,
            bootstrap.worst_case_loss(origin.task, origin.metric, origin.examples, before),
            options,
        )
        refuse_too_few(judge.score(before, comparison=1), options, "stays")
        return judge

    @property
    def baseline(self) -> float:
        """PyTorch's value of the metric."""
        return value(self.origin, self.before)

    @property
    def suspicion(self) -> str | None:
        """A warning if PyTorch's accuracy is below that of always answering the most frequent label.

        The labels of `--data` may be numbered in another order than the model's, or mean something else. A good model
        may give false alarms of a label that hardly ever occurs, but its answers go with the labels.
        """
        settings, examples = self.origin.settings, self.origin.examples
        if self.origin.kind == "run" or settings.problem_type != "single_label_classification":
            return None
        label, most = Counter(str(example.gold) for example in examples).most_common(1)[0]
        scores = self.origin.task.values(self.before.sum(axis=0))
        accuracy = float(scores["accuracy"])
        if accuracy >= most / len(examples) or scores["matthews_correlation"] > RELATED:
            return None
        names = ", ".join(f"{index} is {name}" for index, name in enumerate(settings.labels[:5]))
        return (
            f"PyTorch agrees with {accuracy:.1%} of the labels; {label!r} for every text would agree with "
            f"{most / len(examples):.1%}: check that the labels of the data are the model's ({names})"
        )

    def score(self, after: Counts, comparison: int) -> Score:
        """The score of answers with these counts; `comparison` is as `bootstrap.drop_interval` takes it."""
        task, metric = self.origin.task, self.origin.metric
        interval, (_, unseen) = (
            bootstrap.drop_interval(task, metric, self.before, each, self.loss, comparison)
            for each in (after, self.before)
        )
        other = value(self.origin, after)
        return Score(other, round(self.baseline - other, 6), interval, len(self.origin.examples), unseen)

    def passes(self, after: Counts, comparison: int) -> bool:
        """Whether answers with these counts are shown to lose at most `max_drop`."""
        return not choose.doubt(self.score(after, comparison), self.options.max_drop)


def check_examples(origin: Origin, options: ExportOptions) -> None:
    """Raise GateError, before anything is converted, if the examples are too few or cannot show a loss.

    For a metric in which the cost of a loss depends on all answers, the number is checked once PyTorch has answered.
    """
    count = len(origin.examples)
    if origin.settings.problem_type == "regression" and count < bootstrap.FEWEST:
        raise GateError(
            f"{count:,} examples cannot show a drop of at most {options.max_drop:g} of the {origin.metric}: at least "
            f"{bootstrap.FEWEST} are needed"
        )
    if not bootstrap.shows_losses(origin.task, origin.metric, origin.examples):
        raise GateError(
            f"{count:,} examples cannot show a loss of {origin.metric}, since no answer to them changes it: "
            "add examples that it counts (texts with an entity, texts of every label), or go by another score: "
            "--metric; in a recipe, training.best"
        )
    if not bootstrap.has_constant_loss(origin.task, origin.metric, origin.examples):
        return
    unseen = bootstrap.unseen(origin.task, origin.metric, origin.examples)
    refuse_too_few(Score.flawless(count, unseen), options, "is right and stays")


def ask(
    worker: Worker, texts: Sequence[Text], outputs: dict[Path, list[Output]], say: Say = lambda line: None
) -> Callable[[], list[Output]]:
    """Start computing a worker's outputs for the texts, unless `outputs` has them; calling the result waits for them.

    Args:
        worker: the model's process.
        texts: of the examples.
        outputs: by model; those computed are added.
        say: receives progress messages.
    """
    model = worker.system.model
    if model in outputs:
        return lambda: outputs[model]
    say(f"{worker.system.name}: answering {len(texts):,} texts")
    later = worker.outputs_later(texts)
    return lambda: outputs.setdefault(model, later())


def check_answers(origin: Origin, options: ExportOptions, outputs: dict[Path, list[Output]]) -> None:
    """Let PyTorch answer the examples, store its `outputs`, and raise GateError if there are too few."""
    with Worker(systems.pytorch(origin), machine.cores()) as worker:
        Judge.of(origin, options, worker.system, ask(worker, origin.texts, outputs)())


def refuse_too_few(same: Score, options: ExportOptions, how: str) -> None:
    """Raise GateError if even a candidate that answers exactly as PyTorch does would not pass.

    Args:
        same: the score of such a candidate.
        options: the options of the export.
        how: what the message assumes of every answer: that it "stays", or "is right and stays" the same.
    """
    if choose.doubt(same, options.max_drop) and not options.allow_fp32:
        raise GateError(
            f"{same.examples:,} examples cannot show a drop of at most {options.max_drop:g}, even if every answer "
            f"{how} the same: {choose.enough(same, options.max_drop)}; with these examples, --max-drop "
            f"{same.provable_drop:g} can be shown"
        )


def count_answers(origin: Origin, windows: Sequence[Encoded], outputs: Sequence[Output]) -> Counts:
    """The counts that the scores of a candidate's outputs are computed from.

    Args:
        origin: the model that the candidate was made from, and the examples.
        windows: the tokenized examples.
        outputs: one for each window.
    """
    answers = origin.task.decode(origin.texts, windows, outputs)
    return bootstrap.count_units(origin.task, origin.examples, answers)


def value(origin: Origin, counts: Counts) -> float:
    """The value of the metric for answers with these counts."""
    return round(float(origin.task.values(counts.sum(axis=0))[origin.metric]), 6)
