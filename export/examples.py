"""What labelled examples can prove: whether they are enough, and how much a candidate loses on them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from bertline.artifacts import machine
from bertline.artifacts.errors import GateError
from bertline.bench import compare
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.export import choose, systems
from bertline.export.choose import Score
from bertline.export.options import ExportOptions
from bertline.export.sources import Origin
from bertline.tasks import bootstrap
from bertline.tasks.task import Answer, Counts, Output
from bertline.tasks.tokens import Encoded


@dataclass(frozen=True)
class Judge:
    """Holds the answers of candidates against PyTorch's to the same examples."""

    origin: Origin
    before: Counts
    """Of PyTorch's answers."""
    answers: Sequence[Answer]
    """PyTorch's."""
    loss: Counts
    """As `bootstrap.worst_case_loss` gives it."""
    options: ExportOptions

    @classmethod
    def of(cls, origin: Origin, options: ExportOptions, pytorch: System, outputs: Sequence[Output]) -> "Judge":
        """The one that goes by what PyTorch has given for the examples.

        Raises:
            GateError: these are too few to show that anything is right.
        """
        answers = compare.answers(pytorch, origin.examples, outputs)
        before = origin.task.counts(origin.examples, answers)
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
        """What is to be said where PyTorch agrees with fewer labels than a single answer to all texts would.

        The labels of `--data` may be numbers in another order than the model's, or mean something else.
        """
        settings, examples = self.origin.settings, self.origin.examples
        if self.origin.kind == "run" or settings.problem_type != "single_label_classification":
            return None
        label, most = Counter(str(example.gold) for example in examples).most_common(1)[0]
        accuracy = float(self.origin.task.values(self.before.sum(axis=0))["accuracy"])
        if accuracy >= most / len(examples):
            return None
        names = ", ".join(f"{index} is {name}" for index, name in enumerate(settings.labels[:5]))
        return (
            f"PyTorch agrees with {accuracy:.1%} of the labels; {label!r} for every text would agree with "
            f"{most / len(examples):.1%}: check that the labels of the data are the model's ({names})"
        )

    def score(self, after: Counts, comparison: int) -> Score:
        """What answers are worth: see `bootstrap.drop_interval`."""
        task, metric = self.origin.task, self.origin.metric
        interval, (_, unseen) = (
            bootstrap.drop_interval(task, metric, self.before, each, self.loss, comparison)
            for each in (after, self.before)
        )
        other = value(self.origin, after)
        return Score(other, round(self.baseline - other, 6), interval, len(self.origin.examples), unseen)

    def passes(self, after: Counts, comparison: int) -> bool:
        """Whether answers are shown to lose no more than asked."""
        return not choose.doubt(self.score(after, comparison), self.options.max_drop)


def check_examples(origin: Origin, options: ExportOptions) -> None:
    """Raise GateError where so few examples, or such ones, can prove nothing, before anything is converted.

    Of a metric whose losses depend on all answers that is known once these are.
    """
    count = len(origin.examples)
    if origin.settings.problem_type == "regression" and count < bootstrap.FEWEST:
        raise GateError(
            f"{count:,} examples cannot tell a drop of {options.max_drop:g} of the {origin.metric}: at least "
            f"{bootstrap.FEWEST} would tell"
        )
    if not bootstrap.shows_losses(origin.task, origin.metric, origin.examples):
        raise GateError(
            f"{count:,} examples cannot show a loss of {origin.metric}, since no answer to them changes it: add some "
            "of what it counts (texts with an entity, texts of every label), or train by another: training.best"
        )
    if not bootstrap.has_constant_loss(origin.task, origin.metric, origin.examples):
        return
    unseen = bootstrap.unseen(origin.task, origin.metric, origin.examples)
    refuse_too_few(Score(1.0, 0.0, (0.0, unseen), count, unseen), options, "is right and stays")


def check_answers(origin: Origin, options: ExportOptions, answers: dict[Path, list[Output]]) -> None:
    """Raise GateError where the examples are too few by PyTorch's answers to them, which `answers` then has."""
    with Worker(systems.pytorch(origin), machine.cores()) as worker:
        model = worker.system.model
        answers[model] = worker.outputs(origin.texts)
    Judge.of(origin, options, worker.system, answers[model])


def refuse_too_few(same: Score, options: ExportOptions, how: str) -> None:
    """Raise GateError where no more is to be had than a candidate that answers as PyTorch does, and that is doubtful.

    Args:
        same: the score of such a one.
        options: what is asked.
        how: what of every answer is taken for granted.
    """
    if choose.doubt(same, options.max_drop) and not options.allow_fp32:
        raise GateError(
            f"{same.examples:,} examples cannot tell a drop of {options.max_drop:g}, not even if every answer {how} "
            f"the same: {choose.enough(same, options.max_drop)}, or these --max-drop {ceil(1e4 * same.unseen) / 1e4:g}"
        )


def count_answers(origin: Origin, windows: Sequence[Encoded], outputs: Sequence[Output]) -> Counts:
    """What the scores of a candidate's outputs for the examples are made of.

    Args:
        origin: of the candidate.
        windows: the examples as it reads them; they are tokenized once, and not for every score.
        outputs: one for each of the windows.
    """
    return origin.task.counts(origin.examples, origin.task.decode(origin.texts, windows, outputs))


def value(origin: Origin, counts: Counts) -> float:
    """The metric of what was answered."""
    return round(float(origin.task.values(counts.sum(axis=0))[origin.metric]), 6)
