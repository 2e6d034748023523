"""Whether a candidate is right, which is best, and why the others are not taken. Figures in, words out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log1p, sqrt
from statistics import geometric_mean

from bertline.artifacts.bundle import Candidate
from bertline.export.candidates.plans import Plan
from bertline.export.options import ExportOptions

FP32 = "fp32: measured for comparison, chosen with --allow-fp32 only, where no other is right"
ROUNDING = 1e-9
"""0.85 - 0.84 is a little more than 0.01 in binary; it is within 0.01 all the same."""


ALL = 1 - ROUNDING
"""Of a score: its logarithm is none."""


@dataclass(frozen=True)
class Score:
    """What a candidate's answers to the validation examples are worth."""

    value: float
    drop: float
    interval: tuple[float, float]
    """Of the drop: see `bootstrap.drop_interval`."""
    examples: int
    unseen: float
    """Its upper end, were all answers the same."""


@dataclass(frozen=True)
class Trial:
    """What was measured of a candidate."""

    plan: Plan
    size_bytes: int
    p50_ms: dict[str, float]
    score: Score | None = None
    agreement: float | None = None
    """With PyTorch's answers to the examples, as `Task.agreement` measures it."""

    @property
    def milliseconds(self) -> float:
        """The geometric mean of the medians."""
        return geometric_mean(self.p50_ms.values())


def order(trial: Trial, options: ExportOptions) -> tuple[float, ...]:
    """What is better stands first; of two alike the smaller, or the faster."""
    if options.prefer == "size":
        return (trial.size_bytes, trial.milliseconds)
    if options.prefer == "accuracy" and trial.agreement is not None:
        return (-trial.agreement, trial.milliseconds)
    return (trial.milliseconds, trial.size_bytes)


def fault(trial: Trial, options: ExportOptions) -> str | None:
    """Why a candidate cannot be taken, as far as is known; None where it can, or may once it is scored."""
    if (large := too_large(trial, options)) is not None:
        return large
    if not trial.plan.quantized and not options.allow_fp32:
        return FP32
    if not trial.plan.quantized and trial.plan.runtime == "onnxruntime":
        return None  # its logits were held against PyTorch's: it needs no examples to be right
    return doubt(trial.score, options.max_drop) if trial.score else None


def too_large(trial: Trial, options: ExportOptions) -> str | None:
    """By how much a candidate is larger than it may be; None where it is not."""
    if options.max_size is None or trial.size_bytes <= options.max_size * 1e6:
        return None
    return f"{trial.size_bytes / 1e6:.1f} MB, more than {options.max_size:g}"


def doubt(score: Score, max_drop: float) -> str | None:
    """Why a drop of at most `max_drop` is not shown; None where it is."""
    most = score.interval[1]
    if most <= max_drop + ROUNDING:
        return None
    if score.drop > max_drop + ROUNDING:
        return f"loses {score.drop:.4f}, more than {max_drop:g}"
    known = f"loses {score.drop:.4f}, but {score.examples:,} examples let it be {most:.4f}"
    return f"{known}: {enough(score, max_drop)}"


def enough(score: Score, max_drop: float) -> str:
    """How many examples would do.

    With n times as many, what varies falls to a root of an nth. What is not seen is 1 - p^(1/examples), so it is the
    logarithm of the rest that falls to an nth.
    """
    spare = max_drop - score.drop
    if spare < ROUNDING:
        return "no number of them would tell"
    varies = max(score.interval[1] - score.drop - score.unseen, 0.0)
    unseen = spare * log1p(-min(score.unseen, ALL)) / log1p(-min(spare, ALL))
    root = (varies + sqrt(varies**2 + 4 * unseen * spare)) / (2 * spare)
    return f"about {ceil(score.examples * root**2):,} would tell"


def candidates(
    trials: Sequence[Trial], chosen: Trial, sealed: Sequence[Trial], options: ExportOptions
) -> list[Candidate]:
    """All trials, each with the reason why it was taken or not."""
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
    """A line for each trial: value, drop with its interval, speed, size, and what is wrong with it."""
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
        return f"sealed too, for machines that {chosen.plan.name} is not for"
    if chosen.plan.quantized and not trial.plan.quantized:
        return FP32
    if wrong := fault(trial, options):
        return wrong
    if chosen.plan.cascade is not None and trial.plan.cascade is None:
        return "not right alone, as is known: not scored"
    if options.prefer == "size" and trial.size_bytes > chosen.size_bytes:
        return f"larger than {chosen.plan.name}: {trial.size_bytes:,} bytes against {chosen.size_bytes:,}"
    own, best_own = trial.agreement, chosen.agreement
    if options.prefer == "accuracy" and own is not None and best_own is not None and own < best_own:
        return f"less close to PyTorch than {chosen.plan.name}: agreement {own:.4f} against {best_own:.4f}"
    if trial.milliseconds == chosen.milliseconds:
        return f"as fast as {chosen.plan.name}, but larger: {trial.size_bytes:,} bytes against {chosen.size_bytes:,}"
    return f"slower than {chosen.plan.name}: {trial.milliseconds:.2f} ms against {chosen.milliseconds:.2f}"
