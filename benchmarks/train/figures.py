"""Pure functions from what the processes report to one row per system and the ratios between systems."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from bertline.benchmarks.train.job import WARM_UP, Counts, Device, Told


class Figures(NamedTuple):
    """The figures of one run of one system; speed and padding exclude the warm-up steps."""

    tokens_per_second: float
    """Real tokens, without padding."""
    padding_share: float
    """Padding as a share of all tokens computed."""
    peak_bytes: int
    """The sum over ranks."""
    first_step_seconds: float
    """From the launch to the end of the first step."""


class Ratio(NamedTuple):
    """The speed of one system over that of another."""

    of: str
    over: str
    at_least: float | None
    """The target, if there is one."""


BERTLINE, FP32, TWO_RANKS = "bertline", "bertline, fp32", "bertline, 2 ranks"
BARE, TRAINER, GROUPED, TUTORIAL = "bare PyTorch loop", "Trainer", "Trainer, group_by_length", "tutorial's loop"
RATIOS = (
    Ratio(BERTLINE, TRAINER, 1.3),
    Ratio(BERTLINE, GROUPED, None),
    Ratio(BERTLINE, TUTORIAL, 1.5),
    Ratio(BERTLINE, BARE, 0.95),
    Ratio(TWO_RANKS, BERTLINE, 0.95),
    Ratio(BERTLINE, FP32, 1.7),
)


def figures(launched: float, told: Sequence[Told], counts: Counts, device: Device) -> Figures:
    """The figures of a run.

    Args:
        launched: when it was launched, on the clock of the steps.
        told: the report of each rank.
        counts: tokens of each step, over all ranks.
        device: where it was run.
    """
    ends, warm_up = told[0].ends, WARM_UP[device]
    measured = counts[warm_up : len(ends)]
    real, computed = (sum(column) for column in zip(*measured, strict=True))
    return Figures(
        tokens_per_second=real / (ends[-1] - ends[warm_up - 1]),
        padding_share=1 - real / computed,
        peak_bytes=sum(rank.peak_bytes for rank in told),
        first_step_seconds=ends[0] - launched,
    )


def row(name: str, rounds: Sequence[Figures]) -> dict[str, Any]:
    """The medians of a system over the rounds, and the figures of each round."""
    medians = {field: median(getattr(each, field) for each in rounds) for field in Figures._fields}
    return {"name": name, **medians, "rounds": [each._asdict() for each in rounds]}


def ratios(measured: Mapping[str, Sequence[Figures]]) -> list[dict[str, Any]]:
    """The ratios of RATIOS whose systems were both measured: the median over the ratios of the rounds."""
    return [
        {**ratio._asdict(), "ratio": median(found := _by_round(ratio, measured)), "rounds": found}
        for ratio in RATIOS
        if ratio.of in measured and ratio.over in measured
    ]


def _by_round(ratio: Ratio, measured: Mapping[str, Sequence[Figures]]) -> list[float]:
    pairs = zip(measured[ratio.of], measured[ratio.over], strict=True)
    return [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
