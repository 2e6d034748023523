"""What is asked of an export: how much may be lost, for which CPU, and what is preferred."""

from dataclasses import dataclass

from bertline.artifacts.errors import InputError

TARGETS = ("auto", "avx2", "avx512", "avx512_vnni", "arm64")
PREFERENCES = ("latency", "size", "accuracy")
LAYOUTS = ("huggingface", "triton")


@dataclass(frozen=True)
class ExportOptions:
    """The options of `bertline export` that decide what is chosen."""

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
        for name, known in (("target", TARGETS), ("prefer", PREFERENCES), ("layout", LAYOUTS)):
            if (found := getattr(self, name)) not in known:
                raise InputError(f"{name} {found!r} is unknown; it is one of {', '.join(known)}")
        if self.portable and (self.target != "auto" or self.layout == "triton"):
            raise InputError(
                "--portable makes a Hugging Face folder for every CPU class: leave out --target and --layout"
            )
