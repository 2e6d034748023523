"""From a trained model to a bundle: convert, fuse, hold against PyTorch, quantize, measure, choose, seal.

Nothing is assumed of a CPU: every candidate answers the validation texts and is timed on this one, each in a process of
its own. A gate that is not met ends in GateError, and there is no bundle.
"""

import tempfile
from pathlib import Path
from typing import Any

from bertline.artifacts import files, machine
from bertline.artifacts.bundle import MODEL
from bertline.artifacts.errors import InputError
from bertline.bench.worker import Worker
from bertline.export import account, candidates, measure, sources, triton
from bertline.export.measure import Say
from bertline.export.seal import seal

LAYOUTS = {"huggingface": MODEL, "triton": triton.MODEL}
"""Where the model lies in the bundle."""


def export(
    source: str,
    bundle: Path,
    max_drop: float,
    target: str = "auto",
    data: Path | None = None,
    say: Say = lambda line: None,
    model: str | None = None,
    trust: bool = False,
    layout: str = "huggingface",
) -> dict[str, Any]:
    """Make a bundle of the fastest quantized candidate that loses at most `max_drop`.

    Args:
        source: a run folder, the place of a Hugging Face model, or a DeepSpeed checkpoint of one.
        bundle: the folder to make.
        max_drop: how much of the metric may be lost, as a difference (0.01: one point of a hundred).
        target: the CPU class that the bundle is for; auto for this machine's.
        data: labelled texts to measure on; a run has its validation split.
        say: takes progress and, at the end, the words.
        model, trust: of a checkpoint alone, as `gather` takes them.
        layout: one of LAYOUTS.

    Returns:
        What `bertline export --json` prints.

    Raises:
        InputError: source, data, target or model are wrong, or `bundle` exists.
        GateError: the ONNX model is not the PyTorch model, or no candidate is within `max_drop`.
        DamagedError: a run's best/, or a file of a checkpoint, is not what was recorded.
    """
    candidates.check_target(target)
    files.refuse_existing(bundle)
    with tempfile.TemporaryDirectory(prefix="bertline-export-") as folder:
        gathered = _gathered(source, data, Path(folder, "gathered"), model, trust, say)
        origin = sources.read(source, data, gathered)
        say(f"{source}: held to {origin.metric} on {len(origin.examples):,} texts")
        # one for both, from now: it imports for seconds, while the model is converted
        with Worker(measure.pytorch(origin), machine.cores()) as yardstick:
            made = candidates.make(origin, yardstick, Path(folder), target, say)
            measured = measure.measure(origin, yardstick, made.graphs, say)
        manifest = account.describe(origin, bundle, made, measured, max_drop, target, LAYOUTS[layout])
        result = account.answer(bundle, manifest, measured.pytorch)
        say(f"sealing {bundle}")
        seal(bundle, origin, made.graph(result["chosen"]), manifest, result, measured.pytorch)
    for line in account.words(manifest, bundle):
        say(line)
    return result


def _gathered(source: str, data: Path | None, folder: Path, model: str | None, trust: bool, say: Say) -> Path | None:
    """`folder` with the model of a checkpoint; None where `source` is none."""
    asked = model is not None or trust
    if not sources.is_checkpoint(source, asked):
        if asked:
            raise InputError(f"{source}: no DeepSpeed checkpoint; leave out --model and --trust-checkpoint")
        return None
    if data is None:
        raise InputError(f"{source}: a checkpoint is measured on texts of yours: add --data FILE")
    from bertline.export.gather import gather  # imports torch, which nothing else here needs so early

    say(f"{source}: gathering")
    gather(Path(source).expanduser(), folder, model, trust)
    return folder
