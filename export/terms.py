"""What is asked of an export: how much may be lost, for which CPU, and what is preferred."""

from dataclasses import dataclass
from math import ceil

from bertline.artifacts.errors import GateError, InputError

RULE_OF_THREE = 3
"""Nothing seen in n examples may still happen in 3/n of all, with 95 % confidence (Hanley and Lippman-Hand, 1983)."""
TARGETS = ("auto", "avx2", "avx512", "avx512_vnni", "arm64")
PREFERENCES = ("latency", "size", "accuracy")


@dataclass(frozen=True)
class Terms:
    """The words of the command line."""

    max_drop: float
    """How much of the metric may be lost, as a difference (0.01: one point of a hundred)."""
    target: str = "auto"
    """The CPU class that the bundle is for; auto for this machine's."""
    portable: bool = False
    """Whether a model for every CPU class is sealed."""
    prefer: str = "latency"
    """What is best, among those that lose no more."""
    max_size: float | None = None
    """Megabytes that the model may have; None for any."""
    batch: int = 1
    """Texts at once that are timed besides one alone."""
    only: tuple[str, ...] = ()
    """Names of the candidates to try; all where empty."""
    quick: bool = False
    """Whether only the usual winners are tried, and timed once."""
    allow_fp32: bool = False
    """Whether an fp32 model may be chosen."""
    calibration: int = 100
    """Texts that static quantization takes its scales from."""
    layout: str = "huggingface"
    """Or triton: the bundle is a model of a Triton model repository as well."""

    def check(self) -> None:
        """Raise InputError for what no export can be held to."""
        if self.target not in TARGETS:
            raise InputError(f"target {self.target!r} is unknown; it is one of {', '.join(TARGETS)}")
        if self.prefer not in PREFERENCES:
            raise InputError(f"prefer {self.prefer!r} is unknown; it is one of {', '.join(PREFERENCES)}")
        if self.portable and (self.target != "auto" or self.layout == "triton"):
            raise InputError(
                "--portable makes a Hugging Face folder for every CPU class: leave out --target and --layout"
            )

    def check_examples(self, count: int) -> None:
        """Raise GateError where so few examples can prove nothing, before anything is converted."""
        if count * self.max_drop < RULE_OF_THREE and not self.allow_fp32:
            raise GateError(
                f"{count:,} examples cannot tell a drop of {self.max_drop:g}, not even if every answer stays the same; "
                f"{fewest(self.max_drop)} could, or these could tell --max-drop {RULE_OF_THREE / max(count, 1):.2g}"
            )


def fewest(max_drop: float) -> str:
    """How many examples it takes at least to tell a drop, in words."""
    return f"{ceil(RULE_OF_THREE / max_drop):,}" if max_drop > 0 else "no number of them"
