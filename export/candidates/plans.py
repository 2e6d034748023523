"""All possible candidates by name, and the reasons why some are not made."""

from dataclasses import dataclass, replace
from typing import Literal

from bertline.artifacts.bundle import Cascade, RuntimeName
from bertline.artifacts.errors import InputError, install_advice
from bertline.artifacts.machine import CpuClass
from bertline.export.options import ExportOptions

EXACT: tuple[CpuClass, ...] = ("avx512_vnni", "arm64")
"""CPU classes that multiply unsigned by signed bytes exactly. The others add two products in 16 bits, which saturates
if weights have eight bits, but not if they have seven (onnxruntime's documentation of quantization)."""

Method = Literal["fp32", "dynamic", "static", "nncf", "weights"]


@dataclass(frozen=True)
class Plan:
    """How to make a candidate."""

    name: str
    method: Method
    runtime: RuntimeName = "onnxruntime"
    fused: bool = False
    signed: bool = False
    """Whether weights are s8 rather than u8; activations are u8."""
    per_channel: bool = True
    reduce_range: bool = False
    """Whether signed weights have seven bits, whose products saturate on no CPU."""
    calibration: str = "minmax"
    bits: int = 8
    fp32_share: float = 0.0
    """The share of the layers, the most sensitive ones, that stay in fp32."""
    cascade: Cascade | None = None
    """For a cascade, its student candidate and the larger model."""

    @property
    def quantized(self) -> bool:
        """Whether weights have fewer than 32 bits."""
        return self.method != "fp32"

    @property
    def calibrated(self) -> bool:
        """Whether calibration texts determine its scales."""
        return self.method in ("static", "nncf")

    @property
    def right_everywhere(self) -> bool:
        """Whether all CPUs are known to compute the same; weights in blocks have kernels of their own, so not those."""
        exact = not self.signed or self.reduce_range
        return self.runtime == "onnxruntime" and exact and self.method != "weights"


def dynamic(signed: bool, fused: bool, per_channel: bool = True) -> Plan:
    """A plan of int8 weights, with activations quantized while the model runs."""
    name = "int8-signed" if signed else "int8-unsigned"
    name += "-fused" * fused + "-per-tensor" * (not per_channel)
    return Plan(name, "dynamic", "onnxruntime", fused, signed, per_channel)


PLANS = (
    Plan("fp32", "fp32"),
    Plan("fp32-fused", "fp32", fused=True),
    Plan("fp32-openvino", "fp32", "openvino"),
    *(dynamic(signed, fused) for fused in (False, True) for signed in (True, False)),
    *(dynamic(signed, fused, per_channel=False) for fused in (False, True) for signed in (True, False)),
    Plan("int8-static-minmax", "static", signed=True),
    Plan("int8-static-entropy", "static", signed=True, calibration="entropy"),
    Plan("int8-static-percentile", "static", signed=True, calibration="percentile"),
    Plan("int8-nncf-openvino", "nncf", "openvino", signed=True),
    Plan("int8-weights", "weights"),
    Plan("int4-weights", "weights", bits=4),
)


@dataclass(frozen=True)
class Situation:
    """The facts that decide which plans can win."""

    options: ExportOptions
    here: CpuClass
    fused: str | None
    """Why there is no fused graph; None if there is one, or it is not yet known."""
    openvino: bool
    """Whether OpenVINO and NNCF are installed."""


def check_only(situation: Situation) -> None:
    """Raise InputError if `only` names an unknown candidate, or one that cannot be made or measured here.

    Called before anything is made, it cannot yet know whether fused candidates are possible.
    """
    only, plans = situation.options.only, {plan.name: plan for plan in PLANS}
    if unknown := [name for name in only if name not in plans]:
        raise InputError(f"--only {', '.join(unknown)}: no such candidate; there are {', '.join(plans)}")
    if refused := [f"--only {name}: {why}" for name in only if (why := _impossible(plans[name], situation))]:
        raise InputError(*refused)


def select(situation: Situation) -> tuple[list[Plan], list[str]]:
    """The plans to try, and notices about those that are not tried, or tried with seven-bit weights.

    Raises:
        InputError: as `check_only`.
    """
    which = _saturating(situation.options, situation.here)
    chosen, notices = _promising(situation)
    if which is None or not any(plan.signed for plan in chosen):
        return chosen, notices
    notice = f"signed weights have seven bits: with eight, CPUs of class {which} saturate and answer differently"
    return [replace(plan, reduce_range=plan.signed) for plan in chosen], [*notices, notice]


def _promising(situation: Situation) -> tuple[list[Plan], list[str]]:
    """The plans that can win, and notices about why others cannot."""
    check_only(situation)
    if only := situation.options.only:
        return [plan for plan in PLANS if plan.name in (*only, "fp32")], []
    reasons = {plan: _impossible(plan, situation) or _hopeless(plan, situation) for plan in PLANS}
    left_out: dict[str, list[str]] = {}
    for plan, reason in reasons.items():
        if reason:
            left_out.setdefault(reason, []).append(plan.name)
    notices = [f"not tried: {', '.join(names)}: {reason}" for reason, names in left_out.items()]
    return [plan for plan, reason in reasons.items() if reason is None], notices


def _saturating(options: ExportOptions, here: CpuClass) -> str | None:
    """The CPU class, targeted or measured on, where signed eight-bit weights saturate; None if neither does."""
    meant = "avx2" if options.portable else options.target
    return next((which for which in (meant, here) if which not in (*EXACT, "auto")), None)


def _impossible(plan: Plan, situation: Situation) -> str | None:
    """Why a plan cannot be made, or why measurements on this machine would not hold for it."""
    options, here = situation.options, situation.here
    if plan.fused and situation.fused:
        return situation.fused
    if plan.runtime == "openvino" and not situation.openvino:
        return f"OpenVINO and NNCF are not installed; {install_advice('export', 'openvino')}"
    if plan.runtime == "openvino" and options.layout == "triton":
        return "Triton runs the model with its ONNX Runtime backend"
    if options.target not in ("auto", here):
        if plan.runtime == "openvino":
            return f"OpenVINO's answers on a CPU of class {options.target} cannot be known here"
        if plan.method == "weights":
            return f"weight-only quantization's answers on a CPU of class {options.target} cannot be known here"
    return None


def _is_usual_winner(plan: Plan, situation: Situation) -> bool:
    """Whether it is what was the fastest for ONNX Runtime on each x86 CPU measured; arm64 was not."""
    fitting = plan.method == "dynamic" and plan.per_channel and plan.fused == (situation.fused is None)
    return fitting and (plan.signed or situation.here == "arm64")


def _hopeless(plan: Plan, situation: Situation) -> str | None:
    """Why a plan cannot win."""
    options = situation.options
    if options.quick and plan.name != "fp32" and not _is_usual_winner(plan, situation):
        return "--quick"
    if plan.method == "weights" and options.prefer != "size":
        return "slower than fp32, since weights are expanded at every run: tried with --prefer size"
    if not plan.per_channel and options.prefer != "size":
        return "as fast as with a scale per channel, and farther from PyTorch: tried with --prefer size"
    if plan.calibration != "minmax":
        return "as fast as int8-static-minmax: made only if that is the fastest but loses too much"
    return None
