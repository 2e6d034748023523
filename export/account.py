"""What is told of an export: the manifest, the JSON answer, and the words."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bertline.artifacts import machine
from bertline.artifacts.bundle import Candidate, Manifest
from bertline.bench.compare import Measured
from bertline.export import choose, portable
from bertline.export.candidates import Made
from bertline.export.measure import Measurements, p50_ms
from bertline.export.sources import Origin

PACKAGES = (
    "bertline", "numpy", "onnx", "onnxruntime", "optimum", "optimum-onnx", "tokenizers", "torch", "transformers",
)  # fmt: skip
ANSWERED = {
    "metric", "baseline", "value", "drop", "max_drop", "examples", "fidelity", "candidates", "target", "notices",
}  # fmt: skip
"""Keys of the manifest that the JSON answer has too."""


def describe(
    origin: Origin, bundle: Path, made: Made, measured: Measurements, max_drop: float, target: str, place: str
) -> Manifest:
    """Choose, and write down all that was found; golden texts and files are for `seal` to add, the model at `place`.

    Raises:
        GateError: no candidate is within `max_drop`.
    """
    here = machine.describe()
    candidates = choose.choose(measured.trials, max_drop)
    chosen = next(one for one in candidates if one.chosen)
    target = here.cpu_class if target == "auto" else target
    return Manifest(
        **origin.settings.model_dump(),
        name=origin.name,
        runtime=portable.describe(made.graph(chosen.name).path, place),
        metric=origin.metric,
        baseline=round(measured.baseline, 6),
        value=chosen.value,
        drop=chosen.drop,
        max_drop=max_drop,
        examples=len(origin.examples),
        fidelity=made.fidelity,
        candidates=candidates,
        target=target,
        machine=here,
        threads=machine.cores(),
        versions=machine.versions(*PACKAGES),
        source=origin.source(bundle),
        golden=[],
        notices=[
            *made.notices,
            *doubts(chosen, max_drop, len(origin.examples)),
            *measured_elsewhere(target, here.cpu_class),
        ],
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files=[],
    )


def doubts(chosen: Candidate, max_drop: float, examples: int) -> list[str]:
    """What the figures cannot tell."""
    low, high = chosen.drop_interval
    if high - low <= max_drop:
        return []
    return [
        f"{examples:,} validation texts tell the drop of {chosen.name} no closer than [{low:+.4f}, {high:+.4f}], "
        f"which is wider than max-drop {max_drop:g}: more texts would tell more"
    ]


def measured_elsewhere(target: str, here: str) -> list[str]:
    """A word where the figures are another CPU class's."""
    return [] if target == here else [f"meant for {target}; latencies and answers were measured on {here}"]


def answer(bundle: Path, manifest: Manifest, pytorch: Measured) -> dict[str, Any]:
    """The `export` JSON."""
    told = manifest.model_dump(mode="json", include=ANSWERED)
    chosen = next(one.name for one in manifest.candidates if one.chosen)
    measured_on = manifest.machine.cpu_class
    return {
        "bundle": str(bundle), "chosen": chosen, **told, "measured_on": measured_on, "pytorch_p50_ms": p50_ms(pytorch)
    }  # fmt: skip


def words(manifest: Manifest, bundle: Path) -> list[str]:
    """What came of it, for people."""
    width = max(len(one.name) for one in manifest.candidates)
    return [
        *(f"{one.name:{width}}  {one.why}" for one in manifest.candidates),
        *(f"note: {notice}" for notice in manifest.notices),
        f"{bundle}: {manifest.metric} {manifest.value:.4f}, PyTorch {manifest.baseline:.4f}",
    ]
