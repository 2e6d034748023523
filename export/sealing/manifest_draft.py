"""What is told of an export: the manifest, the JSON answer, and the words."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertline.artifacts import machine
from bertline.artifacts.bundle import MODEL, Cascade, Fidelity, Manifest, RuntimeSpec, Source, Variant, Vocabulary
from bertline.artifacts.machine import CpuClass
from bertline.export import choose
from bertline.export.candidates.plans import EXACT, Plan
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
"""Keys of the manifest that the JSON answer has too."""
MODELS = {"huggingface": MODEL, "triton": triton.MODEL}
"""By layout, where the model lies that other tools open."""


@dataclass(frozen=True)
class Findings:
    """What is to be sealed, and what is known of it."""

    served: Origin
    """What was exported, or the same with a smaller vocabulary."""
    teacher: Origin | None
    """What candidates were held to, where that is another model."""
    vocabulary: Vocabulary | None
    """What was kept of it; None where all was."""
    fidelity: Fidelity
    """Of the fp32 graph."""
    outcome: ContestResult


@dataclass(frozen=True)
class ManifestDraft:
    """A manifest, and what stands in the bundle's ONNX files, by their paths in it."""

    manifest: Manifest
    graphs: dict[str, Graph]


def describe(
    origin: Origin,
    found: Findings,
    asked: Source | None,
    bundle: Path,
    options: ExportOptions,
    besides: Mapping[str, Any] = {},
) -> ManifestDraft:
    """Write down all that was found; golden texts and files are for `seal` to add.

    Args:
        origin: what was exported.
        found: of it.
        asked: what the larger model of a cascade was made from.
        bundle: where it will be.
        options: of the export.
        besides: other options that the bundle depends on.
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
        examples=len(origin.examples), data=origin.data, options={**asdict(options), **besides},
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
    """What a reader of the figures has to know of the model.

    Args:
        origin: what was exported.
        found: of it.
        cascade: where two models answer.
        target: the CPU class that it is meant for.
        here: that which it was measured on.
    """
    if found.teacher is not None:
        yield f"a student of {found.teacher.place}: PyTorch's figures are those of the teacher"
    if origin.kind != "run" and origin.settings.decision.no_answer_threshold is not None:
        yield (
            "no answer is given where that scores higher than the best span, since some questions of the data have "
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
            f"a cascade: {cascade.teacher} of {cascade.source.place} answered {cascade.share:.1%} of the validation "
            f"{origin.settings.tokens.unit}, those that the student gave no label a probability of "
            f"{cascade.threshold:.3f}; milliseconds are weighed by that share, and other texts have another: a "
            "server's metrics tell it"
        )
    if (vocabulary := found.vocabulary) is not None:
        yield (
            f"vocabulary trimmed to {vocabulary.kept:,} of {vocabulary.of:,} tokens, those in {vocabulary.texts:,} "
            f"rows of texts and in the {len(origin.examples):,} it was measured on; {vocabulary.unseen_share:.1%} of "
            "the latter hold a token that is not in the rows: as many of other texts are read in shorter pieces, at a "
            "cost that was not measured"
        )
    if target != here:
        yield f"meant for {target}; latencies and answers were measured on {here}"


def _variant(candidate: str, runtimes: Mapping[str, RuntimeSpec]) -> Variant:
    return Variant(candidate=candidate, runtime=runtimes[candidate], golden=[])


def model_files(outcome: ContestResult, here: CpuClass, common: str) -> dict[str, tuple[str, list[CpuClass]]]:
    """Where the models go that are sealed, by candidate, and the CPU classes that each is for (none: all).

    Everyone else's tools open `common`, by ONNX Runtime and on any CPU: it is the last one, which all can run.
    """
    *special, usual = [outcome.chosen, *outcome.others]
    places: dict[str, tuple[str, list[CpuClass]]] = {usual.plan.name: (common, [])}
    for trial in special:
        plan = trial.plan
        alike = here in EXACT and plan.runtime == "onnxruntime" and plan.method != "weights"
        classes: list[CpuClass] = list(EXACT) if alike else [here]
        portable = any(other.plan.right_everywhere for other in outcome.others)
        places[plan.name] = (f"onnx/model_{_suffix(plan, here)}.onnx", classes if portable else [])
    return places


def _suffix(plan: Plan, here: CpuClass) -> str:
    """What the file of a special model is called after: how it computes, and on which CPUs."""
    if plan.runtime == "openvino":
        return "openvino"
    if plan.method == "weights":
        return f"int{plan.bits}_weights_{here}"
    return f"{'qint8' if plan.signed else 'quint8'}_{here}"


def runtime(graph: Graph, place: str, classes: list[CpuClass]) -> RuntimeSpec:
    """As the manifest tells of a model."""
    return onnx_files.describe(graph.path, place).model_copy(update={"name": graph.runtime, "cpu_classes": classes})


def answer(bundle: Path, manifest: Manifest, outcome: ContestResult) -> dict[str, Any]:
    """The `export` JSON."""
    told = manifest.model_dump(mode="json", include=ANSWERED)
    return {
        "bundle": str(bundle), "chosen": manifest.chosen.name, **told, "measured_on": manifest.machine.cpu_class,
        "pytorch_p50_ms": outcome.pytorch, "pytorch_size_bytes": outcome.pytorch_bytes,
    }  # fmt: skip


def words(manifest: Manifest, bundle: Path) -> list[str]:
    """What came of it, for people."""
    width = max(len(one.name) for one in manifest.candidates)
    held_to = "PyTorch" if manifest.teacher is None else f"the teacher {manifest.teacher.place}"
    return [
        *(f"{one.name:{width}}  {one.why}" for one in manifest.candidates),
        *(f"note: {notice}" for notice in manifest.notices),
        f"{bundle}: {manifest.metric} {manifest.value:.4f}, {held_to} {manifest.baseline:.4f}",
    ]
