"""`bertline bench`: a bundle beside the PyTorch model it came from and that model in fp32 on ONNX Runtime."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bertline.artifacts import bundle, encoder, files, machine, run
from bertline.artifacts.bundle import Manifest, Source
from bertline.artifacts.errors import InputError
from bertline.bench import compare, systems
from bertline.bench.report import benchmark
from bertline.bench.systems import System
from bertline.export.candidates import convert
from bertline.tasks import catalog
from bertline.tasks.task import Example

ROUNDS = 3
Say = Callable[[str], None]


def bench(folder: Path, against: Sequence[str], data: Path | None, html: Path | None, say: Say) -> dict[str, Any]:
    """Measure a bundle beside what it is held against; write the page where one is asked for.

    Args:
        folder: the bundle.
        against: runs or models; by default what the bundle was held to when it was made. The first is also measured in
            fp32 on ONNX Runtime, and agreement is with it.
        data: labelled examples; by default the test split of the run that the bundle was made from.
        html: where to write the page; it must not exist.
        say: takes a line of progress.

    Returns:
        The `bench` JSON.

    Raises:
        InputError: the bundle's source is gone or changed and nothing else is named; or as the readers raise.
    """
    if html is not None:
        files.refuse_existing(html)
    manifest = bundle.verify(folder)
    models = [run.model(place) for place in against] or [_source(folder, manifest)]
    examples = _examples(folder, manifest, data)
    with tempfile.TemporaryDirectory(prefix="bertline-") as work:
        say("onnxruntime-fp32: converting")
        compared = [*_systems(models, manifest, Path(work)), systems.from_bundle(folder)]
        grid = compare.default_grid(compared)
        result = compare.bench(compared, examples, grid, ROUNDS, machine.cores(), compare.in_lines(say))
    if html is not None:
        files.write_text(html, benchmark.html(result, shlex.join(["bertline", *sys.argv[1:]])))
    return result


def show(result: dict[str, Any]) -> None:
    """Print a result as tables."""
    Console().print(benchmark.terminal(result))


def _source(folder: Path, manifest: Manifest) -> Path:
    """The model that a bundle was held to, its source or its teacher, if it still is that model."""
    source = manifest.teacher or manifest.source
    place = local_place(folder, source)
    if source.kind == "checkpoint":
        raise InputError(f"{place}: a DeepSpeed checkpoint: bertline gather it, and name what that makes: --against")
    model = run.model(place)
    if encoder.weights_sha256(model) != source.weights_sha256:
        raise InputError(
            f"{model}: its weights have changed since {folder} was held to them; name what to use: --against"
        )
    return model


def local_place(folder: Path, source: Source) -> str:
    """What a bundle names, as a place that can be opened from here: local ones are recorded relative to it."""
    place = source.place
    beside = Path(os.path.normpath(folder / place))
    return str(beside) if beside.exists() else place


def _examples(folder: Path, manifest: Manifest, data: Path | None) -> list[Example]:
    if data is None:
        data = run.RunFolder(Path(local_place(folder, manifest.source))).split("test")
        if not data.is_file():
            raise InputError(
                f"{data}: no test split beside what {folder} was made from; name labelled examples: --data"
            )
    return catalog.make(manifest).read_file(data)


def _systems(models: Sequence[Path], manifest: Manifest, work: Path) -> list[System]:
    names = ["pytorch", *(f"pytorch {model}" for model in models[1:])]
    eager = [System(name, "pytorch", model, model, manifest.alone) for name, model in zip(names, models, strict=True)]
    onnx = convert.to_onnx(models[0], manifest.alone, work)
    return [*eager, System("onnxruntime-fp32", "onnxruntime", onnx, models[0], manifest.alone)]
