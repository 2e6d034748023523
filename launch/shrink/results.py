"""What became of each student that was tried: its accuracy, its speed, and why it passes or does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Tried:
    """A student that was tried: a point on the curve of size against accuracy."""

    student: str
    """Its name."""
    run: str
    kept: dict[str, Any]
    """What it keeps of the teacher's run, as in the `student` section of a recipe."""
    value: float
    """Metric of its bundle, or in PyTorch if there is no bundle."""
    drop: float
    p50_ms: dict[str, float] | None
    """Median latency by BATCHxLENGTH; None, as is `speedup`, unless it passed."""
    speedup: float | None
    """Relative to the teacher in PyTorch, timed in turns with it, so that it is comparable between exports."""
    why: str


class Attempt(NamedTuple):
    """A student and, if it passed, the result of its export."""

    tried: Tried
    made: dict[str, Any] | None


def latencies(made: dict[str, Any]) -> dict[str, float]:
    """Median latencies of the chosen candidate, in milliseconds by BATCHxLENGTH."""
    (chosen,) = (one for one in made["candidates"] if one["chosen"])
    return dict(chosen["p50_ms"])


def speedup(made: dict[str, Any]) -> float:
    """How many times as fast as the teacher in PyTorch that candidate is: the geometric mean over all points timed."""
    return geometric_mean(made["pytorch_p50_ms"].values()) / geometric_mean(latencies(made).values())


def table(curve: Sequence[Tried]) -> str:
    """One line per student."""
    width = max(len(one.student) for one in curve)
    return "\n".join(
        f"  {one.student:{width}}  value {one.value:.4f}  drop {one.drop:+.4f}  {one.why}" for one in curve
    )
