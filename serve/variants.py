"""Picks the model of a bundle that answers on this machine."""

from dataclasses import dataclass

from bertline.artifacts import machine
from bertline.artifacts.bundle import Manifest, RuntimeSpec
from bertline.artifacts.errors import install_advice
from bertline.serve.runtimes import installed


@dataclass(frozen=True)
class Picked:
    """A model of a bundle, as picked for this machine."""

    runtime: RuntimeSpec
    golden: list[list[float]]
    """Logits of each golden text, recorded when the bundle was sealed."""
    notice: str | None
    """Why it is not the model that export chose; None if it is."""


def pick(manifest: Manifest) -> Picked:
    """Pick the model that export chose, or else the first variant, that this machine can run and that is for its CPU.

    If none is for this class of CPU, pick the first that runs: the golden texts show whether its answers are right.
    """
    here = machine.cpu_class()
    chosen = Picked(manifest.runtime, [golden.logits for golden in manifest.golden], None)
    others = [
        Picked(one.runtime, one.golden, f"{_why_not(manifest.runtime)}: {one.candidate} on {one.runtime.name} answers")
        for one in manifest.variants
    ]
    runnable = [one for one in (chosen, *others) if installed(one.runtime.name)] or [chosen]
    return next((one for one in runnable if here in (one.runtime.cpu_classes or [here])), runnable[0])


def _why_not(runtime: RuntimeSpec) -> str:
    if not installed(runtime.name):
        return f"{runtime.name} is not installed ({install_advice(runtime.name)})"
    return f"{runtime.model} is not for CPUs of class {machine.cpu_class()}"
