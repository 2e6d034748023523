"""From a recipe to a Trainer, on every rank: claims or resumes the run folder, reads data, makes model and engine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed.comm as dist
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from torch import nn

from bertline.artifacts import encoder, places
from bertline.artifacts import recipe as recipes
from bertline.artifacts.checkpoint import State
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Recipe, Training
from bertline.artifacts.run import Provenance, RunFolder
from bertline.train import checkpoints, deepspeed_config, engine, memory, metrics, model, monitors, ranks, run_folder
from bertline.train.cache import FOLDER
from bertline.train.checkpoints import Found
from bertline.train.data import prepared
from bertline.train.data.batches import Batches
from bertline.train.data.prepared import Prepared
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation import student, teacher, teacher_outputs
from bertline.train.distillation.teacher import Teacher
from bertline.train.loop import Trainer
from bertline.train.losses import Loss, TeacherLoss
from bertline.train.objective import Objective
from bertline.train.progress import Progress


@contextmanager
def trainer(recipe: Recipe, run: RunFolder, resume: bool, progress: Progress) -> Iterator[tuple[Trainer, Prepared]]:
    """Everything a run needs, at the step where it starts or resumes. The caller must hold `run_folder.alone`.

    Raises:
        InputError: the run folder, recipe, data, model or checkpoint does not allow it, and nothing was changed; or a
            monitor does not start, and the run can be resumed with other monitors.
    """
    run_folder.check(recipe, run, resume)  # again: another process may have trained it before the lock was taken
    ranks.from_first(lambda: monitors.check(recipe))
    effective, precision = resolve_precision(recipe, progress)
    model_folder = recipes.model_folder(recipe)
    recipes.check_model(recipe, model_folder)
    material = load_material(effective, model_folder, precision, run.path.parent / FOLDER, progress)
    provenance = ranks.from_first(lambda: provenance_of(model_folder, material))
    splits, task = material.ready.splits, material.ready.splits.task
    tokenizer = task.tokenizer(material.tokenizer)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state = State(ranks=dist.get_world_size(), precision=precision, data=splits.fingerprint, started=now)
    found = resumed_from(run, state, progress) if resume else None
    make_batches = partial(
        Batches, material.ready.train, material.objective, tokenizer, rank=dist.get_rank(), ranks=dist.get_world_size()
    )
    make_objective = partial(objective_of, recipe=effective, material=material, precision=precision)
    fitted_recipe = fitted(effective, material, make_batches, precision, make_objective, progress)
    batches = make_batches(fitted_recipe.training)
    make_engine = partial(engine.make, fitted_recipe, material.folder, task, precision, batches.steps)
    model_engine = engine.started(make_engine, found, fitted_recipe.training.zero_stage)
    if found is not None:
        state = found.state.model_copy(update={"ranks": state.ranks})
    objective = make_objective(model_engine.module)
    run_folder.claim(recipe, run, splits, state, None if found is None else found.checkpoint)
    best = ranks.from_first(lambda: metrics.best(run.metrics, recipe.metric))
    progress.say(describe_engine(fitted_recipe, model_engine, state, batches))
    with monitors.opened(recipe, run, progress.say) as written:
        trainer = Trainer(
            recipe=fitted_recipe,
            provenance=provenance,
            run=run,
            task=task,
            tokenizer=tokenizer,
            tokenizer_folder=material.tokenizer,
            engine=model_engine,
            objective=objective,
            batches=batches,
            validation=material.ready.validation,
            state=state,
            best=None if best is None else best[0],
            progress=progress,
            monitors=written,
        )
        yield trainer, material.ready


def resolve_precision(recipe: Recipe, progress: Progress) -> tuple[Recipe, Precision]:
    """The recipe with a ZeRO stage that works in the precision of these ranks, and that precision.

    Raises:
        InputError: as `choose_precision`, `configure` and `engine.check`.
    """
    precision = deepspeed_config.choose_precision(recipe.training.precision, ranks.on_cpu(), ranks.computes_bf16())
    effective = deepspeed_config.staged(recipe, precision)
    if effective is not recipe:
        progress.say("using ZeRO 1 instead of 0: with ZeRO 0, DeepSpeed does not scale losses in fp16")
    engine.check(deepspeed_config.configure(effective, dist.get_world_size(), precision))
    return effective, precision


class Material(NamedTuple):
    """The model that a run starts from, and what it learns from."""

    folder: Path
    """The model folder: the recipe's, or that of a student made from it."""
    tokenizer: Path
    """The folder of its tokenizer."""
    ready: Prepared
    """The data, with the teacher's outputs if there is a teacher."""
    objective: Objective
    """The loss, except for that of relations, which `objective_of` adds."""
    teacher: Teacher | None


def load_material(
    recipe: Recipe, model_folder: Path, precision: Precision, cache: Path, progress: Progress
) -> Material:
    """Read the data, make the student and run the teacher, each only if the cache does not hold it yet.

    Args:
        recipe: the recipe of the run.
        model_folder: the model that the recipe names.
        precision: the precision in which the teacher computes.
        cache: keeps everything that is made.
        progress: shows progress.

    Raises:
        InputError: as `model.keep_tokenizer`, `prepared.prepare`, `student.cut`, `student.prune`, `teacher.find` and
            `teacher_outputs.compute`.
    """
    tokenizer = ranks.from_first(lambda: model.keep_tokenizer(model_folder, cache))
    cut = model_folder  # may differ from node to node, as a hub's cache does
    if recipe.student.layers is not None:
        cut = ranks.from_first(lambda: student.cut(model_folder, recipe.student, cache))
    made = ranks.from_first(lambda: prepared.prepare(recipe, tokenizer, cache, progress))
    ready = prepared.load(recipe, made)
    task = ready.splits.task
    progress.say(describe(ready))
    if recipe.student.is_pruned:
        cut = ranks.from_first(lambda: student.prune(cut, recipe, ready, tokenizer, cache))
    labels = Loss(task.settings, recipe.training, ready.train.windows.targets)
    if recipe.teacher is None:
        return Material(cut, tokenizer, ready, Objective(labels), None)
    named = teacher.find(recipe, task, cache)
    size = deepspeed_config.micro_batch_size(recipe.training, dist.get_world_size())
    outputs = teacher_outputs.compute(named, ready, tokenizer, precision, size, cache, progress)
    objective = Objective(labels, TeacherLoss(task.settings, recipe.distillation), recipe.distillation.weight)
    return Material(cut, tokenizer, ready._replace(train=replace(ready.train, teacher=outputs)), objective, named)


def provenance_of(model_folder: Path, material: Material) -> Provenance:
    """What a run is made from, recorded before it starts: later it may be gone or changed."""
    return Provenance(
        weights_sha256=encoder.weights_sha256(model_folder),
        revision=places.revision(model_folder),
        teacher_sha256=None if material.teacher is None else material.teacher.sha256,
        data=material.ready.files,
    )


def objective_of(model: nn.Module, recipe: Recipe, material: Material, precision: Precision) -> Objective:
    """What a step minimizes, with the relations of `model` to a teacher beside it, if the recipe asks for them."""
    weight = recipe.distillation.relations
    if material.teacher is None or not weight:
        return material.objective
    compared = teacher.beside(material.teacher, model, material.ready, material.tokenizer, weight, precision)
    return replace(material.objective, relations=compared)


def resumed_from(run: RunFolder, now: State, progress: Progress) -> Found | None:
    """The checkpoint to resume from, or None if the run was stopped before its first one.

    Args:
        run: the run to resume.
        now: the state of a new run on the present data and ranks.
        progress: is told of damaged checkpoints.

    Raises:
        InputError: it was made on other data or in another precision, or all checkpoints are damaged.
    """
    found = ranks.from_first(partial(checkpoints.newest, run.checkpoints, progress.say))
    if found is None:
        return None
    checkpoint, then = found
    faults = []
    if then.data != now.data:
        faults.append(f"{run.path}: the data is not what the run began with; restore it, or start another run")
    if then.precision != now.precision:
        faults.append(
            f"{checkpoint}: made in {then.precision}, this machine would train in {now.precision}; resume on a machine "
            "like the one where the run began"
        )
    if faults:
        raise InputError(*faults)
    return found


def fitted(
    recipe: Recipe,
    material: Material,
    make_batches: Callable[[Training], Batches],
    precision: Precision,
    make_objective: Callable[[nn.Module], Objective],
    progress: Progress,
) -> Recipe:
    """The recipe with micro-batches that fit into GPU memory; unchanged on CPUs, whose memory is overcommitted."""
    if ranks.on_cpu():
        return recipe
    make_model = partial(model.load, material.folder, material.ready.splits.task, recipe.training)
    config = deepspeed_config.configure(recipe, dist.get_world_size(), precision)
    zero = DeepSpeedZeroConfig(**config["zero_optimization"])
    training = memory.fit(recipe.training, zero, make_model, make_batches, make_objective, precision)
    asked = deepspeed_config.micro_batch_size(recipe.training, dist.get_world_size())
    if training.micro_batch_size != asked:
        progress.say(
            f"micro-batches of {asked} texts do not fit into memory; using {training.micro_batch_size}. A step still "
            f"sees {training.batch_size} texts"
        )
    return recipe.model_copy(update={"training": training})


def describe(ready: Prepared) -> str:
    """One line about the splits, and about texts that are cut."""
    splits, tokens = ready.splits, ready.splits.task.settings.tokens
    counts = ", ".join(f"{count:,} {name}" for name, count in splits.counts().items())
    duplicates = f"; {splits.left_out}" if splits.duplicates else ""
    labels = f"; labels: {', '.join(splits.task.labels)}" if splits.task.labels else ""
    share = 0.0 if tokens.long == "windows" else float(ready.train.windows.truncated.mean())
    cut = f"; {share:.0%} of the texts are longer than {tokens.max_length} tokens and are cut" if share > 0.005 else ""
    return f"texts: {counts}{labels}{duplicates}{cut}"


def describe_engine(recipe: Recipe, model_engine: Any, state: State, batches: Batches) -> str:
    """One line about the model, the ranks and the steps."""
    parameters = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model_engine.module.parameters()]
    trained = sum(count for count, trains in parameters if trains) / 1e6
    where = "CPU" if ranks.on_cpu() else "GPU"
    start = f", resumed at step {state.step}" if state.step else ""
    return (
        f"{recipe.model}: {trained:.3g} of {sum(count for count, _ in parameters) / 1e6:.3g} M parameters train; "
        f"{state.ranks} {where} rank{'s' if state.ranks > 1 else ''}, {state.precision}, "
        f"ZeRO {recipe.training.zero_stage}; {batches.steps:,} steps of {recipe.training.batch_size} texts{start}"
    )
