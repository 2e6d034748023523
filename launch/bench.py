"""`bertline bench`: measures a bundle beside the PyTorch model it came from, its fp32 ONNX, or other bundles."""

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bertline.artifacts import bundle, files, machine, run, signature
from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import InputError
from bertline.artifacts.say import Say
from bertline.bench import compare, systems
from bertline.bench.report import benchmark
from bertline.export import baselines, sources
from bertline.serve import engine
from bertline.tasks import catalog
from bertline.tasks.task import Example

ROUNDS = 3


def bench(
    folder: Path,
    against: Sequence[str],
    data: Path | None,
    html: Path | None,
    say: Say,
    columns: Mapping[str, str] = {},
    signed: str | None = None,
) -> dict[str, Any]:
    """Measure a bundle beside other models, and write the report as a page if asked.

    Args:
        folder: the bundle.
        against: runs, models or other bundles to compare with; by default the reference model that the bundle was
            measured against when it was made. Agreement is with the first one, which is also measured in fp32 on ONNX
            Runtime unless it is a bundle.
        data: labelled examples; by default the test split of the run that the bundle was made from.
        html: where to write the page; the file must not exist.
        say: receives lines of progress.
        columns: the columns of `data` by input name, for those that are named differently.
        signed: sha256 of the manifest that the bundle must have; None accepts any.

    Returns:
        What `bertline bench --json` prints.

    Raises:
        InputError: the bundle's source is gone or changed and nothing else is named; or as the readers raise.
        DamagedError: a bundle is damaged, answers differently on this CPU, or is not the signed one, before or after it
            was measured.
    """
    if columns and data is None:
        raise InputError("--column names columns of labelled examples: add --data FILE")
    if html is not None:
        files.check_new(html)
    manifest = engine.proven(folder, signed).manifest
    held_to = against or [baselines.reference(folder, manifest)]
    examples = _examples(folder, manifest, data, columns)
    with tempfile.TemporaryDirectory(prefix="bertline-") as work:
        compared = [
            *baselines.systems(folder, manifest, held_to, Path(work), say),
            systems.from_bundle(folder, manifest),
        ]
        grid = compare.default_grid(compared)
        result = compare.bench(compared, examples, grid, ROUNDS, machine.cores(), say, manifest.metric)
    signature.demand_same(folder, signed, bundle.load(folder).sha256)  # what was measured was loaded since
    if html is not None:
        files.write_text(html, benchmark.html(result, shlex.join(["bertline", *sys.argv[1:]])))
    return result


def show(result: dict[str, Any]) -> None:
    """Print a result as tables."""
    Console().print(benchmark.terminal(result))


def _examples(folder: Path, manifest: Manifest, data: Path | None, columns: Mapping[str, str]) -> list[Example]:
    if data is None:
        data = run.RunFolder(Path(sources.opened(manifest.source.place, folder))).split("test")
        if not data.is_file():
            raise InputError(
                f"{data}: {folder} was made from something that has no test split; name labelled examples: --data"
            )
    return catalog.make(manifest).read_file(data, columns)
