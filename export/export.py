"""From a trained model to a bundle: convert, fuse, compare with PyTorch, quantize, time, score, choose, seal.

Nothing is assumed about the CPU: candidates are timed and scored on this one, each in its own process. If a gate is not
met, the export raises GateError and makes no bundle.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertline.artifacts import files, machine, places, signature
from bertline.artifacts.bundle import Packing
from bertline.artifacts.errors import BertlineError, InputError
from bertline.artifacts.say import Say
from bertline.artifacts.signature import Sign
from bertline.bench.worker import Worker
from bertline.export import packing, sources, systems
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import Situation, check_only, select
from bertline.export.contest import Contest, ContestResult
from bertline.export.examples import ask, check_examples
from bertline.export.gates import exact, fidelity
from bertline.export.gates.exact import Exact
from bertline.export.options import ExportOptions
from bertline.export.sealing import manifest_draft
from bertline.export.sealing.manifest_draft import Findings, ManifestDraft
from bertline.export.sealing.seal import seal
from bertline.export.sources import Origin
from bertline.export.teacher import Teacher
from bertline.export.trimming import vocabulary
from bertline.serve.runtimes import installed
from bertline.tasks.task import Output


def export(
    source: str,
    bundle: Path,
    options: ExportOptions,
    data: Path | None = None,
    say: Say = lambda line: None,
    model: str | None = None,
    trust: bool = False,
    sign: Path | None = None,
    trim_vocabulary: str | None = None,
    teacher: Teacher | None = None,
    columns: Mapping[str, str] = {},
) -> dict[str, Any]:
    """Make a bundle of the best candidate that is shown to lose no more than the options allow.

    Args:
        source: a run folder, the place of a Hugging Face model, or a DeepSpeed checkpoint of one.
        bundle: the folder to make.
        options: decide what is chosen.
        data: labelled texts to measure on; a run uses its validation split by default.
        say: receives progress messages and, at the end, the summary.
        model, trust: for a checkpoint only, as `gather` takes them.
        sign: the private key to sign the bundle with.
        trim_vocabulary: texts, as `vocabulary.trim` takes them, whose tokens are kept; None to keep all tokens.
        teacher: the teacher, if the source is a student; candidates are compared with it instead of the source.
        columns: the names of the columns of `data` that have other names than the default.

    Returns:
        What `bertline export --json` prints.

    Raises:
        InputError: an argument is wrong, or `bundle` exists or cannot be made.
        GateError: the ONNX model differs from the PyTorch model, no candidate passes, or there are too few examples.
        DamagedError: a run's best/, or a file of a checkpoint, differs from what was recorded.
    """
    _begin(bundle, options)
    signer = signature.signer(sign) if sign is not None else None
    with tempfile.TemporaryDirectory(prefix="bertline-export-") as work:
        gathered = _gather_checkpoint(source, data, Path(work, "gathered"), model, trust, say)
        origin = _prepare(sources.read(source, data, gathered, columns), options, Path(work, "tokenizer"), say)
        found = _convert_and_contend(origin, teacher, options, trim_vocabulary, Path(work), say)
        asked = None if teacher is None else teacher.source(bundle)
        others = _other_options(trim_vocabulary, columns, model)
        draft = manifest_draft.describe(origin, found, asked, bundle, options, others)
        return _seal(bundle, draft, found, signer, say)


def _begin(bundle: Path, options: ExportOptions) -> None:
    """Refuse what can be refused before the model is read, and remove what killed exports have left."""
    options.check()
    check_only(Situation(options, machine.cpu_class(), None, _has_openvino()))
    files.check_new(bundle)
    files.remove_left(bundle)


def _prepare(origin: Origin, options: ExportOptions, tokenizer: Path, say: Say) -> Origin:
    """The model, held to the metric asked for, with its tokenizer; first its examples are checked to be enough."""
    if options.metric is not None:
        origin = sources.held_to(origin, options.metric)
    check_examples(origin, options)
    say(f"{origin.place}: measuring {origin.metric} on {len(origin.examples):,} texts")
    return sources.with_tokenizer(origin, tokenizer)


def _other_options(trim_vocabulary: str | None, columns: Mapping[str, str], model: str | None) -> dict[str, Any]:
    """What the manifest records of the other options, without the folders of local paths."""
    return {
        "trim_vocabulary": trim_vocabulary and sources.base_name(trim_vocabulary),
        "column": dict(columns),
        "model": model and sources.base_name(model),
    }


def _gather_checkpoint(
    source: str, data: Path | None, folder: Path, model: str | None, trust: bool, say: Say
) -> Path | None:
    """Gather a checkpoint into `folder` and return that; None if `source` is not a checkpoint."""
    asked = model is not None or trust
    if not sources.is_checkpoint(source, asked):
        if asked:
            raise InputError(f"{source}: no DeepSpeed checkpoint; leave out --model and --trust-checkpoint")
        return None
    if data is None:
        raise InputError(f"{source}: a checkpoint has no texts to measure on: add --data FILE")
    from bertline.export.gathering.gather import gather  # imports torch, which nothing else needs this early

    say(f"{source}: gathering")
    gather(places.expanded(source), folder, model, trust)
    return folder


def _convert_and_contend(
    origin: Origin, teacher: Teacher | None, options: ExportOptions, texts: str | None, folder: Path, say: Say
) -> Findings:
    """Convert the model, compare it with PyTorch, and hold the contest, against the teacher if there is one."""
    judge = None if teacher is None else teacher.origin(origin.examples)
    with ExitStack() as stack:
        # asked early: PyTorch answers while the model is converted, which takes one core
        own = stack.enter_context(Worker(systems.pytorch(origin), machine.cores()))
        reference = own if judge is None else stack.enter_context(Worker(systems.pytorch(judge), machine.cores()))
        served, kept = origin, None
        if texts is not None:
            say(f"trimming the vocabulary to {texts}")
            served, kept = vocabulary.trim(origin, texts, folder / "trimmed")
        graphs = exact.make(served, fidelity.expect(origin, served, own), folder, say)
        # asked only now: beside the gates, which use all cores as well, nothing would be gained
        answered = ask(reference, origin.texts, {} if teacher is None else teacher.outputs, say)
        outcome = _hold_contest(served, graphs, reference, answered, teacher, options, say)
        return Findings(served, judge, kept, graphs.fidelity, outcome)


def _hold_contest(
    origin: Origin,
    graphs: Exact,
    reference: Worker,
    answered: Callable[[], list[Output]],
    teacher: Teacher | None,
    options: ExportOptions,
    say: Say,
) -> ContestResult:
    """Hold the contest of all candidates that can win; the result has notices about those that were left out."""
    plans, notices = select(Situation(options, machine.cpu_class(), graphs.why_not_fused, _has_openvino()))
    texts, notice = sources.calibration(origin)
    asked = None if teacher is None else teacher.graph()
    builder = CandidateBuilder(origin, graphs.fp32, graphs.fused, texts, options.calibration, asked)
    outcome = Contest(origin, reference, answered, builder, options, say, teacher).hold(plans)
    if any(trial.plan.calibrated for trial in outcome.trials):
        notices += builder.used() + ([notice] if notice else [])
    packed, lost = _measure_packing(origin, outcome, options)
    return replace(outcome, notices=[*notices, *outcome.notices, *lost], packing=packed)


def _measure_packing(
    origin: Origin, outcome: ContestResult, options: ExportOptions
) -> tuple[Packing | None, list[str]]:
    """How the chosen model packs short texts, with notices; None for another target, which cannot be measured here.

    A cascade packs none: a single text that its student is unsure of would send the whole batch to the larger model.
    Nor does dynamic int8, which scales activations over the whole batch.
    """
    plan = outcome.chosen.plan
    if options.target not in ("auto", machine.cpu_class()) or plan.cascade is not None or plan.method == "dynamic":
        return None, []
    chosen = systems.system(origin, outcome.graphs[outcome.chosen.plan.name])
    try:
        return packing.measure(chosen, origin.texts), []
    except BertlineError as error:
        return None, [f"short texts are not packed: the gain could not be measured ({error})"]


def _seal(bundle: Path, draft: ManifestDraft, found: Findings, signer: Sign | None, say: Say) -> dict[str, Any]:
    """Seal the bundle, say the summary, and return the JSON answer."""
    result = manifest_draft.answer(bundle, draft.manifest, found.outcome)
    say(f"sealing {bundle}")
    sealed = seal(bundle, found.served, draft, result, signer)
    for line in manifest_draft.words(sealed, bundle):
        say(line)
    return {**result, "notices": sealed.notices}


def _has_openvino() -> bool:
    """Whether OpenVINO and NNCF are installed."""
    return installed("openvino") and importlib.util.find_spec("nncf") is not None
