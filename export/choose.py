"""Which candidate is taken, and why the others are not. Figures in, words out: nothing is measured here."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from bertline.artifacts.bundle import Candidate
from bertline.artifacts.errors import GateError

ROUNDING = 1e-9
"""0.85 - 0.84 is a little more than 0.01 in binary; it is within 0.01 all the same."""


@dataclass(frozen=True)
class Trial:
    """What was measured of a candidate."""

    name: str
    quantized: bool
    value: float
    drop: float
    drop_interval: tuple[float, float]
    size_bytes: int
    p50_ms: dict[str, float]

    @property
    def milliseconds(self) -> float:
        """The geometric mean of the medians."""
        return exp(sum(map(log, self.p50_ms.values())) / len(self.p50_ms))


def choose(trials: Sequence[Trial], max_drop: float) -> list[Candidate]:
    """The fastest quantized candidate that loses at most `max_drop` is chosen, the smaller one of two alike.

    Returns:
        All trials in their order, each with the reason.

    Raises:
        GateError: none is within `max_drop`; the message is a table of what was tried.
    """
    within = [trial for trial in trials if trial.quantized and trial.drop <= max_drop + ROUNDING]
    if not within:
        raise GateError(
            f"no quantized candidate loses at most {max_drop:g}; no bundle was made. Tried:\n" + table(trials)
        )
    best = min(within, key=lambda trial: (trial.milliseconds, trial.size_bytes))
    return [
        Candidate(
            name=trial.name,
            runtime="onnxruntime",
            value=trial.value,
            drop=trial.drop,
            drop_interval=trial.drop_interval,
            size_bytes=trial.size_bytes,
            p50_ms=trial.p50_ms,
            chosen=trial is best,
            why=_why(trial, best, max_drop),
        )
        for trial in trials
    ]


def table(trials: Sequence[Trial]) -> str:
    """A line for each trial: value, drop with its interval, speed, size."""
    width = max(len(trial.name) for trial in trials)
    return "\n".join(
        f"  {trial.name:{width}}  value {trial.value:.4f}  drop {trial.drop:+.4f} "
        f"[{trial.drop_interval[0]:+.4f}, {trial.drop_interval[1]:+.4f}]  "
        f"{trial.milliseconds:.2f} ms  {trial.size_bytes / 1e6:.1f} MB"
        for trial in trials
    )


def _why(trial: Trial, best: Trial, max_drop: float) -> str:
    if trial is best:
        return f"chosen: the fastest that loses at most {max_drop:g}"
    if not trial.quantized:
        return "fp32: measured for comparison, never chosen"
    if trial.drop > max_drop + ROUNDING:
        return f"loses {trial.drop:.4f}, more than {max_drop:g}"
    if trial.milliseconds == best.milliseconds:
        return f"as fast as {best.name}, but larger: {trial.size_bytes:,} bytes against {best.size_bytes:,}"
    return f"slower than {best.name}: {trial.milliseconds:.2f} ms against {best.milliseconds:.2f}"
