"""The options of an export: how much may be lost, for which CPU, and what is preferred."""

from dataclasses import dataclass

from bertline.artifacts.errors import InputError

MAX_DROP = 0.01
"""Default of `bertline export --max-drop`."""
TARGETS = ("auto", "avx2", "avx512", "avx512_vnni", "arm64")
PREFERENCES = ("latency", "size", "accuracy")
LAYOUTS = ("huggingface", "triton")


@dataclass(frozen=True)
class ExportOptions:
    """The options of `bertline export` that decide what is chosen."""

    max_drop: float
    """The largest loss of the metric allowed, as a difference (0.01 is one percentage point)."""
    target: str = "auto"
    """The CPU class that the bundle is for; auto means this machine's."""
    portable: bool = False
    """Whether the bundle includes a model for every CPU class."""
    prefer: str = "latency"
    """What to optimize for among the candidates that pass."""
    max_size: float | None = None
    """The largest size allowed, in megabytes; None for no limit."""
    batch: int = 1
    """The batch size to time besides single texts."""
    only: tuple[str, ...] = ()
    """Names of the candidates to try; empty means all."""
    quick: bool = False
    """Whether to try only the usual winner, timed in one round."""
    allow_fp32: bool = False
    """Whether an fp32 model may be chosen."""
    calibration: int = 100
    """The number of calibration texts for static quantization."""
    metric: str | None = None
    """The score that candidates are held to; None for the run's, or the task's first one."""
    layout: str = "huggingface"
    """With "triton", the bundle is also a model of a Triton model repository."""

    def check(self) -> None:
        """Raise InputError for unknown values and for options that exclude each other."""
        for name, known in (("target", TARGETS), ("prefer", PREFERENCES), ("layout", LAYOUTS)):
            if (found := getattr(self, name)) not in known:
                raise InputError(f"{name} {found!r} is unknown; it is one of {', '.join(known)}")
        if self.portable and (self.target != "auto" or self.layout == "triton"):
            raise InputError(
                "--portable makes a Hugging Face folder for every CPU class: leave out --target and --layout"
            )
