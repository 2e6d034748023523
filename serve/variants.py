"""Which of a bundle's models answers on this machine."""

from dataclasses import dataclass

from bertline.artifacts import machine
from bertline.artifacts.bundle import Manifest, Runtime
from bertline.artifacts.errors import install_advice
from bertline.serve.runtimes import installed


@dataclass(frozen=True)
class Picked:
    """A model of a bundle."""

    runtime: Runtime
    golden: list[list[float]]
    """What it gave for each golden text where it was sealed."""
    notice: str | None
    """Why it is not the chosen one; None where it is."""


def pick(manifest: Manifest) -> Picked:
    """The chosen model, or the first variant that this machine can run and whose CPU classes hold this one.

    A CPU of a class that none is for gets the first that runs: the golden texts tell whether it answers alike.
    """
    here = machine.cpu_class()
    chosen = Picked(manifest.runtime, [golden.logits for golden in manifest.golden], None)
    others = [
        Picked(one.runtime, one.golden, f"{_why_not(manifest.runtime)}: {one.candidate} on {one.runtime.name} answers")
        for one in manifest.variants
    ]
    runnable = [one for one in (chosen, *others) if installed(one.runtime.name)] or [chosen]
    return next((one for one in runnable if here in (one.runtime.cpu_classes or [here])), runnable[0])


def _why_not(runtime: Runtime) -> str:
    if not installed(runtime.name):
        return f"{runtime.name} is not installed ({install_advice(runtime.name)})"
    return f"{runtime.model} is not for CPUs of class {machine.cpu_class()}"
