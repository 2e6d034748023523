"""The baselines of a bundle: the model it came from, or other models and bundles, as systems to measure beside it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bertline.artifacts import bundle, encoder, places, run
from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import InputError
from bertline.artifacts.say import Say
from bertline.artifacts.task import TaskSettings
from bertline.bench.systems import System, from_bundle
from bertline.export import sources
from bertline.export.conversion import convert
from bertline.serve import engine
from bertline.tasks import heads


def reference(folder: Path, manifest: Manifest) -> str:
    """The place of a bundle's reference model: its teacher or, without one, its source.

    Raises:
        InputError: it cannot be opened, or is no longer the same model.
    """
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


def systems(folder: Path, manifest: Manifest, held_to: Sequence[str], work: Path, say: Say) -> list[System]:
    """The systems that a bundle is compared with; the first one also in fp32 on ONNX Runtime, unless it is a bundle.

    Args:
        folder, manifest: the bundle that is measured.
        held_to: places of runs, models or other bundles, at least one.
        work: folder for what is made for them.
        say: receives lines of progress.

    Raises:
        InputError, DamagedError: as `system`.
    """
    first, *others = [system(place, folder, manifest, work / f"tokenizer-{n}") for n, place in enumerate(held_to)]
    if first.kind == "pytorch":
        say("onnxruntime-fp32: converting")
        onnx = convert.to_onnx(first.model, first.settings, work)
        first = replace(first, name="pytorch")
        others.append(replace(first, name="onnxruntime-fp32", kind="onnxruntime", model=onnx))
    return [first, *others]


def system(place: str, folder: Path, manifest: Manifest, made: Path) -> System:
    """Another bundle, or a run or model in PyTorch, as a system to compare with.

    A model reads texts and decides as the bundle does, a run as it was trained to.

    Args:
        place: the other bundle, run or model.
        folder, manifest: the bundle that is measured.
        made: folder to make for a model's tokenizer.

    Raises:
        InputError: its labels differ from the bundle's, or it has no tokenizer.
        DamagedError: the other bundle is damaged, or answers differently on this CPU.
    """
    if (other := places.expanded(place)).joinpath(bundle.MANIFEST).is_file():
        sealed = engine.proven(other).manifest
        own = heads.named_as(manifest.alone, sealed.alone)
        _demand_comparable(place, own, folder, manifest)
        return replace(from_bundle(other, sealed), name=f"bundle {other}", settings=own)
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
