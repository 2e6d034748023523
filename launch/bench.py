"""`bertline bench`: measures a bundle beside the PyTorch model it came from, its fp32 ONNX, or other bundles."""

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bertline.artifacts import bundle, encoder, files, machine, places, run, signature
from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import InputError
from bertline.artifacts.say import Say
from bertline.artifacts.task import TaskSettings
from bertline.bench import compare, systems
from bertline.bench.report import benchmark
from bertline.bench.systems import System
from bertline.export import sources
from bertline.export.conversion import convert
from bertline.serve import engine
from bertline.tasks import catalog, heads
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
    manifest = _manifest(folder, signed)
    engine.Bundle(folder).engine()  # refuses a bundle that answers differently on this CPU
    held_to = against or [_source(folder, manifest)]
    examples = _examples(folder, manifest, data, columns)
    with tempfile.TemporaryDirectory(prefix="bertline-") as work:
        compared = [*_systems_beside(folder, manifest, held_to, Path(work), say), systems.from_bundle(folder, manifest)]
        grid = compare.default_grid(compared)
        result = compare.bench(compared, examples, grid, ROUNDS, machine.cores(), say, manifest.metric)
    _manifest(folder, signed)  # again, because another process loaded what was measured
    if html is not None:
        files.write_text(html, benchmark.html(result, shlex.join(["bertline", *sys.argv[1:]])))
    return result


def show(result: dict[str, Any]) -> None:
    """Print a result as tables."""
    Console().print(benchmark.terminal(result))


def _manifest(folder: Path, signed: str | None) -> Manifest:
    """The manifest of a bundle, once the bundle is verified."""
    loaded = bundle.load(folder)
    signature.demand_same(folder, signed, loaded.sha256)
    return loaded.manifest


def _systems_beside(folder: Path, manifest: Manifest, held_to: Sequence[str], work: Path, say: Say) -> list[System]:
    """The systems that a bundle is compared with; the first one also in fp32 on ONNX Runtime, unless it is a bundle."""
    first, *others = [_beside(place, folder, manifest, work / f"tokenizer-{n}") for n, place in enumerate(held_to)]
    if first.kind == "pytorch":
        say("onnxruntime-fp32: converting")
        onnx = convert.to_onnx(first.model, first.settings, work)
        first = replace(first, name="pytorch")
        others.append(replace(first, name="onnxruntime-fp32", kind="onnxruntime", model=onnx))
    return [first, *others]


def _source(folder: Path, manifest: Manifest) -> str:
    """The place of a bundle's reference model, its teacher or its source, if that is still the same model."""
    source = manifest.teacher or manifest.source
    place = sources.opened(source.place, folder)
    if source.kind == "checkpoint":
        raise InputError(
            f"{place}: a DeepSpeed checkpoint: convert it with bertline gather and name the result: --against"
        )
    try:
        model = run.model(place)
    except InputError as error:
        raise InputError(
            f"{place}, which {folder} was compared with, cannot be opened; name another model: --against ({error})"
        ) from None
    if encoder.weights_sha256(model) != source.weights_sha256:
        raise InputError(
            f"{model}: its weights have changed since {folder} was made; name a model to compare with: --against"
        )
    return place


def _examples(folder: Path, manifest: Manifest, data: Path | None, columns: Mapping[str, str]) -> list[Example]:
    if data is None:
        data = run.RunFolder(Path(sources.opened(manifest.source.place, folder))).split("test")
        if not data.is_file():
            raise InputError(
                f"{data}: {folder} was made from something that has no test split; name labelled examples: --data"
            )
    return catalog.make(manifest).read_file(data, columns)


def _beside(place: str, folder: Path, manifest: Manifest, made: Path) -> System:
    """Another bundle, or a run or model in PyTorch, as a system to compare with.

    A model reads texts and decides as the bundle does, a run as it was trained to.

    Args:
        place: the other bundle, run or model.
        folder, manifest: the bundle that is measured.
        made: folder to make for a model's tokenizer.

    Raises:
        InputError: its labels differ from the bundle's, or it has no tokenizer.
        DamagedError: the other bundle is damaged.
    """
    if (other := places.expanded(place)).joinpath(bundle.MANIFEST).is_file():
        sealed = bundle.verify(other)
        engine.Bundle(other).engine()
        own = heads.named_as(manifest.alone, sealed.alone)
        _demand_comparable(place, own, folder, manifest)
        return replace(systems.from_bundle(other, sealed), name=f"bundle {other}", settings=own)
    model, trained = run.find(place)
    own = _as_labelled(model, manifest) if trained is None else heads.named_as(manifest.alone, trained.alone)
    _demand_comparable(place, own, folder, manifest)
    tokenizer = sources.make_tokenizer(model, made) if trained is None else model
    return System(f"pytorch {place}", "pytorch", model, tokenizer, own)


def _demand_comparable(place: str, own: TaskSettings, folder: Path, manifest: Manifest) -> None:
    if _comparable(own) != _comparable(manifest):
        both = f"{place}: {_describe(own)}; {folder}: {_describe(manifest)}"
        raise InputError(f"{both}; they cannot be compared")


def _as_labelled(model: Path, manifest: Manifest) -> TaskSettings:
    """The settings of a model that decides as the bundle does: its thresholds are those of the same labels."""
    own, thresholds = heads.settings(encoder.check(model), manifest.alone), manifest.decision.thresholds
    if thresholds is None or sorted(own.labels) != sorted(manifest.labels):
        return own
    tuned = dict(zip(manifest.labels, thresholds, strict=True))
    decision = own.decision.model_copy(update={"thresholds": [tuned[name] for name in own.labels]})
    return own.model_copy(update={"decision": decision})


def _comparable(settings: TaskSettings) -> tuple[object, ...]:
    """What two models must have in common to be compared."""
    return settings.task, settings.problem_type, settings.inputs, sorted(settings.labels)


def _describe(settings: TaskSettings) -> str:
    kind = settings.problem_type or settings.task
    return f"{kind} of {' and '.join(settings.inputs)}, {', '.join(settings.labels) or 'no labels'}"
