"""Records an export: drafts the manifest, and writes the JSON answer and the summary."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertline.artifacts import machine
from bertline.artifacts.bundle import MODEL, Cascade, Fidelity, Manifest, RuntimeSpec, Source, Variant, Vocabulary
from bertline.artifacts.machine import CpuClass
from bertline.export import choose
from bertline.export.contest import ContestResult
from bertline.export.conversion import onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.export.options import ExportOptions
from bertline.export.sealing import triton
from bertline.export.sources import Origin

PACKAGES = (
    "bertline", "nncf", "numpy", "onnx", "onnxruntime", "openvino", "optimum", "optimum-onnx", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
ANSWERED = {
    "metric", "baseline", "value", "drop", "max_drop", "examples", "fidelity", "candidates", "target", "notices",
    "cascade", "vocabulary",
}  # fmt: skip
"""The manifest's keys that the JSON answer has too."""
MODELS = {"huggingface": MODEL, "triton": triton.MODEL}
"""By layout, the path of the model that other tools open."""


@dataclass(frozen=True)
class Findings:
    """The results of an export, to be sealed."""

    served: Origin
    """The exported model, or the same with a smaller vocabulary."""
    teacher: Origin | None
    """The model that candidates were compared with, if it is not the exported one."""
    vocabulary: Vocabulary | None
    """What was kept of the vocabulary; None if all of it."""
    fidelity: Fidelity
    """How close the fp32 graph is to PyTorch."""
    outcome: ContestResult


@dataclass(frozen=True)
class ManifestDraft:
    """A manifest without golden texts and files, and the graphs of the bundle's ONNX files by their paths in it."""

    manifest: Manifest
    graphs: dict[str, Graph]


def describe(
    origin: Origin,
    found: Findings,
    asked: Source | None,
    bundle: Path,
    options: ExportOptions,
    other_options: Mapping[str, Any] = {},
) -> ManifestDraft:
    """Draft the manifest; `seal` adds golden texts and files.

    Args:
        origin: the exported model.
        found: the results of the export.
        asked: the source of a cascade's larger model.
        bundle: where the bundle will be.
        options: the options of the export.
        other_options: other options that the bundle depends on.
    """
    outcome, here = found.outcome, machine.describe()
    chosen, score = outcome.chosen, outcome.chosen.score
    assert score is not None, "what is chosen was scored"
    places = model_files(outcome, here.cpu_class, MODELS[options.layout])
    runtimes = {name: runtime(outcome.graphs[name], place, classes) for name, (place, classes) in places.items()}
    cascade = chosen.plan.cascade and chosen.plan.cascade.model_copy(update={"source": asked})
    target = here.cpu_class if options.target == "auto" else options.target
    manifest = Manifest(
        **origin.settings.model_dump(),
        schema_version=1,
        name=origin.name,
        runtime=runtimes[chosen.plan.name],
        variants=[_variant(one.plan.name, runtimes) for one in outcome.others],
        metric=origin.metric, baseline=outcome.baseline, value=score.value, drop=score.drop, max_drop=options.max_drop,
        examples=len(origin.examples), data=origin.data, options={**asdict(options), **other_options},
        fidelity=found.fidelity,
        candidates=choose.candidates(outcome.trials, chosen, outcome.others, options),
        target=target, machine=here, threads=machine.cores(), versions=machine.versions(*PACKAGES),
        source=origin.source(bundle),
        teacher=found.teacher and found.teacher.source(bundle),
        cascade=cascade, packing=outcome.packing, vocabulary=found.vocabulary,
        notices=[*outcome.notices, *notices(origin, found, cascade, target, here.cpu_class)],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        golden=[], files=[],
    )  # fmt: skip
    return ManifestDraft(manifest, {place: outcome.graphs[name] for name, (place, _) in places.items()})


def notices(origin: Origin, found: Findings, cascade: Cascade | None, target: str, here: str) -> Iterator[str]:
    """Notices that a reader of the figures needs.

    Args:
        origin: the exported model.
        found: the results of the export.
        cascade: the cascade, if the chosen model is one.
        target: the CPU class that the bundle is for.
        here: the CPU class that it was measured on.
    """
    if found.teacher is not None:
        yield f"a student of {found.teacher.name}: PyTorch's figures are those of the teacher"
        yield (
            "its checkpoint was chosen, and other students may have been compared, on the same validation "
            f"{origin.settings.tokens.unit}, which the interval of the drop does not account for: `bertline bench` "
            "measures on the test split"
        )
    if origin.repeated:
        yield f"{origin.repeated:,} rows of the data repeat others, and were left out"
    if origin.kind != "run" and origin.settings.decision.no_answer_threshold is not None:
        yield (
            "no answer is given when that scores higher than the best span, since some questions of the data have "
            "none; the threshold, 0, was not tuned"
        )
    if origin.kind != "run" and origin.settings.problem_type == "regression" and origin.names_sigmoid:
        yield (
            "sentence-transformers' CrossEncoder gives the sigmoid of this model's logit, from 0 to 1; as a regression "
            "the logit itself is given"
        )
    if cascade is not None:
        assert cascade.source is not None, "which model is asked is known"
        yield (
            f"a cascade: {cascade.larger} of {cascade.source.place} answered {cascade.share:.1%} of the validation "
            f"{origin.settings.tokens.unit}, those for which the student gave no label a probability of at least "
            f"{cascade.threshold:.3f}; milliseconds are weighted by that share, which differs for other texts: a "
            "server's metrics report it"
        )
    if (vocabulary := found.vocabulary) is not None:
        yield (
            f"vocabulary trimmed to {vocabulary.kept:,} of {vocabulary.of:,} tokens, those in {vocabulary.texts:,} "
            f"rows of texts and in the {len(origin.examples):,} it was measured on; {vocabulary.unseen_share:.1%} of "
            "the latter hold a token that is not in the rows: expect as many new texts to be read in shorter pieces, "
            "at a cost that was not measured"
        )
    if target != here:
        yield f"meant for {target}; latencies and answers were measured on {here}"


def _variant(candidate: str, runtimes: Mapping[str, RuntimeSpec]) -> Variant:
    return Variant(candidate=candidate, runtime=runtimes[candidate], golden=[])


def model_files(outcome: ContestResult, here: CpuClass, common: str) -> dict[str, tuple[str, list[CpuClass]]]:
    """The path of each sealed candidate's model, and the CPU classes it is for (empty: all).

    Other tools open `common` with ONNX Runtime on any CPU, so it is the last candidate, which every machine can run.
    The others are for OpenVINO or have weights in blocks: int8 candidates for ONNX Runtime need no model beside them,
    since with --portable their signed weights have seven bits.
    """
    *special, usual = [outcome.chosen, *outcome.others]
    places: dict[str, tuple[str, list[CpuClass]]] = {usual.plan.name: (common, [])}
    for trial in special:
        plan = trial.plan
        suffix = "openvino" if plan.runtime == "openvino" else f"int{plan.bits}_weights_{here}"
        portable = any(other.plan.right_everywhere for other in outcome.others)
        places[plan.name] = (f"onnx/model_{suffix}.onnx", [here] if portable else [])
    return places


def runtime(graph: Graph, place: str, classes: list[CpuClass]) -> RuntimeSpec:
    """A model's entry in the manifest."""
    return onnx_files.describe(graph.path, place).model_copy(update={"name": graph.runtime, "cpu_classes": classes})


def answer(bundle: Path, manifest: Manifest, outcome: ContestResult) -> dict[str, Any]:
    """What `bertline export --json` prints."""
    shared = manifest.model_dump(mode="json", include=ANSWERED)
    return {
        "bundle": str(bundle), "chosen": manifest.chosen.name, **shared, "measured_on": manifest.machine.cpu_class,
        "pytorch_p50_ms": outcome.pytorch, "pytorch_size_bytes": outcome.pytorch_bytes,
    }  # fmt: skip


def words(manifest: Manifest, bundle: Path) -> list[str]:
    """The lines of the summary."""
    width = max(len(one.name) for one in manifest.candidates)
    held_to = "PyTorch" if manifest.teacher is None else f"the teacher {manifest.teacher.place}"
    return [
        *(f"{one.name:{width}}  {one.why}" for one in manifest.candidates),
        *(f"note: {notice}" for notice in manifest.notices),
        f"{bundle}: {manifest.metric} {manifest.value:.4f}, {held_to} {manifest.baseline:.4f}",
    ]
