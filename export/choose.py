"""Decides whether a candidate passes, which is best, and why the others were not chosen, from measured figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log1p, sqrt
from statistics import geometric_mean

from bertline.artifacts.bundle import Candidate
from bertline.export.candidates.plans import Plan
from bertline.export.options import ExportOptions

FP32 = "fp32 baseline: chosen only with --allow-fp32, if no other candidate passes"
ROUNDING = 1e-9
"""In binary, 0.85 - 0.84 is slightly more than 0.01; it must count as within 0.01."""
ALL = 1 - ROUNDING
"""The upper bound for a share in log1p(-share), which is infinite at 1."""


@dataclass(frozen=True)
class Score:
    """A candidate's result on the validation examples."""

    value: float
    drop: float
    interval: tuple[float, float]
    """The confidence interval of the drop: see `bootstrap.drop_interval`."""
    examples: int
    unseen: float
    """The upper end that the interval would have if every answer were the same as PyTorch's."""

    @classmethod
    def flawless(cls, examples: int, unseen: float) -> "Score":
        """The score of answers that are all right, as PyTorch's are."""
        return cls(1.0, 0.0, (0.0, unseen), examples, unseen)

    @property
    def provable_drop(self) -> float:
        """The smallest drop that the examples can show, rounded up to four decimals."""
        return ceil(1e4 * self.unseen) / 1e4


@dataclass(frozen=True)
class Trial:
    """What was measured of a candidate."""

    plan: Plan
    size_bytes: int
    p50_ms: dict[str, float]
    score: Score | None = None
    agreement: float | None = None
    """Agreement with PyTorch's answers to the examples: see `Task.agreement`."""
    distortion: float = 0.0
    """Distortion of PyTorch's numbers: see `Task.distortion`."""

    @property
    def milliseconds(self) -> float:
        """The geometric mean of the medians."""
        return geometric_mean(self.p50_ms.values())


def order(trial: Trial, options: ExportOptions) -> tuple[float, ...]:
    """The sort key of a trial, the best first; ties go to the smaller, or the faster."""
    if options.prefer == "size":
        return (trial.size_bytes, trial.milliseconds)
    if options.prefer == "accuracy" and trial.agreement is not None:
        return (-trial.agreement, trial.milliseconds)
    return (trial.milliseconds, trial.size_bytes)


def fault(trial: Trial, options: ExportOptions) -> str | None:
    """Why a candidate cannot be chosen; None if it can, or has not been scored yet."""
    if (large := too_large(trial, options)) is not None:
        return large
    if not trial.plan.quantized and not options.allow_fp32:
        return FP32
    if not trial.plan.quantized and trial.plan.runtime == "onnxruntime":
        return None  # its logits were compared with PyTorch's, so it needs no examples
    if trial.score is None:
        return None
    return doubt(trial.score, options.max_drop) or _distorted(trial, options.max_drop)


def _distorted(trial: Trial, max_drop: float) -> str | None:
    """Why the numbers of a regression are too far off, however well they correlate; None if they are not.

    The square of a correlation falls twice as fast as the correlation, hence twice `max_drop`. If all of it may be
    lost, nothing is asked of the numbers.
    """
    if max_drop >= 1 or trial.distortion <= 2 * max_drop + ROUNDING:
        return None
    return f"shifts or scales PyTorch's numbers by {trial.distortion:.4f} of their variance, more than {2 * max_drop:g}"


def too_large(trial: Trial, options: ExportOptions) -> str | None:
    """Why a candidate's size is too large; None if it is not."""
    if options.max_size is None or trial.size_bytes <= options.max_size * 1e6:
        return None
    return f"{trial.size_bytes / 1e6:.1f} MB, more than --max-size {options.max_size:g}"


def doubt(score: Score, max_drop: float) -> str | None:
    """Why a drop of at most `max_drop` has not been shown; None if it has."""
    most = score.interval[1]
    if most <= max_drop + ROUNDING:
        return None
    if score.drop > max_drop + ROUNDING:
        return f"loses {score.drop:.4f}, more than {max_drop:g}"
    known = f"loses {score.drop:.4f}, but with {score.examples:,} examples it may be {most:.4f}"
    return f"{known}: {enough(score, max_drop)}"


def enough(score: Score, max_drop: float) -> str:
    """How many examples would show it, in words.

    With n times as many examples, sampling variation shrinks by sqrt(n). The unseen part is 1 - p^(1/examples), so the
    logarithm of its complement shrinks by n.
    """
    spare = max_drop - score.drop
    if spare < ROUNDING:
        return "no number of them would suffice"
    varies = max(score.interval[1] - score.drop - score.unseen, 0.0)
    unseen = spare * log1p(-min(score.unseen, ALL)) / log1p(-min(spare, ALL))
    root = (varies + sqrt(varies**2 + 4 * unseen * spare)) / (2 * spare)
    return f"about {ceil(score.examples * root**2):,} would suffice"


def candidates(
    trials: Sequence[Trial], chosen: Trial, sealed: Sequence[Trial], options: ExportOptions
) -> list[Candidate]:
    """All trials as the manifest lists them, each with the reason why it was chosen or not."""
    return [
        Candidate(
            name=trial.plan.name,
            runtime=trial.plan.runtime,
            value=trial.score and trial.score.value,
            drop=trial.score and trial.score.drop,
            drop_interval=trial.score and trial.score.interval,
            size_bytes=trial.size_bytes,
            p50_ms=trial.p50_ms,
            chosen=trial is chosen,
            why=_why(trial, chosen, sealed, options),
        )
        for trial in trials
    ]


def table(trials: Sequence[Trial], options: ExportOptions) -> str:
    """A line for each trial: value, drop with its interval, latency, size, and why it does not pass."""
    width = max(len(trial.plan.name) for trial in trials)
    return "\n".join(
        f"  {trial.plan.name:{width}}  {_score_in_words(trial.score)}  {trial.milliseconds:.2f} ms  "
        f"{trial.size_bytes / 1e6:.1f} MB  {fault(trial, options) or ''}".rstrip()
        for trial in sorted(trials, key=lambda trial: order(trial, options))
    )


def _score_in_words(score: Score | None) -> str:
    if score is None:
        return "not scored"
    low, high = score.interval
    return f"value {score.value:.4f}  drop {score.drop:+.4f} [{low:+.4f}, {high:+.4f}]"


def _why(trial: Trial, chosen: Trial, sealed: Sequence[Trial], options: ExportOptions) -> str:
    best = {"latency": "fastest", "size": "smallest", "accuracy": "closest to PyTorch"}[options.prefer]
    if trial is chosen:
        return f"chosen: the {best} that loses at most {options.max_drop:g}"
    if trial in sealed:
        return f"also included, for machines that cannot use {chosen.plan.name}"
    if chosen.plan.quantized and not trial.plan.quantized:
        return FP32
    if wrong := fault(trial, options):
        return wrong
    if chosen.plan.cascade is not None and trial.plan.cascade is None:
        return "not scored: the student is known not to pass alone"
    if options.prefer == "size" and trial.size_bytes > chosen.size_bytes:
        return f"larger than {chosen.plan.name}: {trial.size_bytes:,} bytes against {chosen.size_bytes:,}"
    own, best_own = trial.agreement, chosen.agreement
    if options.prefer == "accuracy" and own is not None and best_own is not None and own < best_own:
        return f"less close to PyTorch than {chosen.plan.name}: agreement {own:.4f} against {best_own:.4f}"
    if trial.milliseconds == chosen.milliseconds:
        return f"as fast as {chosen.plan.name}, but larger: {trial.size_bytes:,} bytes against {chosen.size_bytes:,}"
    return f"slower than {chosen.plan.name}: {trial.milliseconds:.2f} ms against {chosen.milliseconds:.2f}"
