"""From a trained classifier to a bundle: convert, fuse, hold against PyTorch, quantize, measure, choose, seal.

Nothing is assumed of a CPU: every candidate answers the validation texts and is timed on this one, each in a process of
its own. A gate that is not met ends in GateError, and there is no bundle.
"""

import tempfile
from pathlib import Path
from typing import Any

from bertline.artifacts import files, machine
from bertline.bench.worker import Worker
from bertline.export import account, candidates, measure, sources
from bertline.export.measure import Say
from bertline.export.seal import seal


def export(
    source: str,
    bundle: Path,
    max_drop: float,
    target: str = "auto",
    data: Path | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Make a bundle of the fastest quantized candidate that loses at most `max_drop`.

    Args:
        source: a run folder, or the place of a Hugging Face classifier.
        bundle: the folder to make.
        max_drop: how much of the metric may be lost, as a difference (0.01: one point of a hundred).
        target: the CPU class that the bundle is for; auto for this machine's.
        data: labelled texts to measure on; a run has its validation split.
        say: takes progress and, at the end, the words.

    Returns:
        What `bertline export --json` prints.

    Raises:
        InputError: source, data or target are wrong, or `bundle` exists.
        GateError: the ONNX model is not the PyTorch model, or no candidate is within `max_drop`.
        DamagedError: a run's best/ is not what was recorded.
    """
    candidates.check_target(target)
    files.refuse_existing(bundle)
    origin = sources.read(source, data)
    say(f"{source}: held to {origin.metric} on {len(origin.examples):,} texts")
    with tempfile.TemporaryDirectory(prefix="bertline-export-") as folder:
        # one for both, from now: it imports for seconds, while the model is converted
        with Worker(measure.pytorch(origin), machine.cores()) as yardstick:
            made = candidates.make(origin, yardstick, Path(folder), target, say)
            measured = measure.measure(origin, yardstick, made.graphs, say)
        manifest = account.describe(origin, bundle, made, measured, max_drop, target)
        result = account.answer(bundle, manifest, measured.pytorch)
        say(f"sealing {bundle}")
        seal(bundle, origin, made.graph(result["chosen"]), manifest, result, measured.pytorch)
    for line in account.words(manifest, bundle):
        say(line)
    return result
