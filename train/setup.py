"""From a recipe to a Trainer: the run folder claimed or resumed, data read, model and engine made, on every rank."""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import deepspeed.comm as dist
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import ValidationError
from torch import nn

from bertline.artifacts import files, imports
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.checkpoint import State
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Recipe, Training
from bertline.artifacts.run import RunFolder
from bertline.tasks.task import Task
from bertline.train import checkpoints, deepspeed_config, elastic, memory, metrics, model, monitors, ranks
from bertline.train.checkpoints import Found
from bertline.train.data import prepared
from bertline.train.data.batches import Batches
from bertline.train.data.prepared import Prepared
from bertline.train.data.splitting import Splits
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation import answers, student, teacher
from bertline.train.distillation.relations import Relations
from bertline.train.distillation.teacher import Teacher
from bertline.train.loop import Trainer
from bertline.train.losses import Loss, Objective, TeacherLoss
from bertline.train.progress import Progress


@contextmanager
def trainer(recipe: Recipe, run: RunFolder, resume: bool, progress: Progress) -> Iterator[tuple[Trainer, Prepared]]:
    """Everything a run needs, at the step it is to go on from; for who holds it `alone`.

    Raises:
        InputError: the run folder, recipe, data, model or checkpoint does not allow it; nothing has been changed then.
            Or a monitor does not start: the run is there, and may go on with other monitors.
    """
    check_run(recipe, run, resume)
    ranks.from_first(lambda: monitors.check(recipe))
    precision = deepspeed_config.choose_precision(recipe.training.precision, ranks.on_cpu(), ranks.computes_bf16())
    asked, recipe = recipe, deepspeed_config.staged(recipe, precision)
    if recipe is not asked:
        progress.say("ZeRO 1 in the place of 0, in which DeepSpeed does not scale losses in fp16")
    check_deepspeed(deepspeed_config.configure(recipe, dist.get_world_size(), precision))
    whole = recipes.model_folder(recipe)
    recipes.check_model(recipe, whole)
    cache = run.path.parent / prepared.FOLDER
    tokenizer_folder = ranks.from_first(lambda: model.keep_tokenizer(whole, cache))
    given = material(recipe, whole, tokenizer_folder, precision, cache, progress)
    folder, ready, objective = given.folder, given.ready, given.objective
    splits, task = ready.splits, ready.splits.task
    tokenizer = task.tokenizer(tokenizer_folder)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state = State(ranks=dist.get_world_size(), precision=precision, data=splits.fingerprint, started=now)
    found = resumed_from(run, state, progress) if resume else None
    make_batches = partial(
        Batches, ready.train, objective, tokenizer, rank=dist.get_rank(), ranks=dist.get_world_size()
    )
    compare = comparing(recipe, given, tokenizer_folder, precision)
    recipe = fitted(recipe, given, make_batches, precision, compare, progress)
    batches = make_batches(recipe.training)
    make = partial(make_engine, recipe, folder, task, precision, batches.steps)
    engine = started_engine(make, found, recipe.training.zero_stage)
    if found is not None:
        state = found.state.model_copy(update={"ranks": state.ranks})
    relations = None if compare is None else compare(engine.module)
    claim(asked, run, splits, state, None if found is None else found.checkpoint)
    best = metrics.best(run.metrics, recipe.metric)
    progress.say(describe_engine(recipe, engine, state, batches))
    with monitors.opened(asked, run, progress.say) as written:
        trainer = Trainer(
            recipe=recipe,
            run=run,
            task=task,
            tokenizer=tokenizer,
            tokenizer_folder=tokenizer_folder,
            engine=engine,
            objective=objective,
            batches=batches,
            validation=ready.validation,
            state=state,
            best=None if best is None else best[0],
            progress=progress,
            monitors=written,
            relations=relations,
        )
        yield trainer, ready


@contextmanager
def alone(run: RunFolder) -> Iterator[None]:
    """No other process trains the run while the block runs, whatever has started it: rank 0 holds a lock.

    Raises:
        InputError: another process does.
    """
    folder = run.path.absolute()
    taken = f"{run.path}: another process trains it; wait for it and its ranks, or name another folder with --run"
    with ExitStack() as held:

        def lock() -> None:
            held.enter_context(files.locked(folder.parent / prepared.FOLDER / f"{folder.name}.lock", taken))

        ranks.from_first(lock)
        yield


def check_run(recipe: Recipe, run: RunFolder, resume: bool) -> None:
    """Refuse a folder that holds something else than what `resume` says."""
    runs.refuse_search(run.path)
    if run.summary.exists():
        raise InputError(f"{run.path}: holds a finished run; name another folder with --run, or remove this one")
    begun = run.recipe.exists()
    if begun and not resume:
        raise InputError(
            f"{run.path}: holds a run that did not finish; continue it with --resume, or name another folder with --run"
        )
    if not begun and resume:
        raise InputError(f"{run.path}: holds no run to resume; leave out --resume to begin one")
    if not begun and run.path.exists() and any(not path.name.startswith(".") for path in run.path.iterdir()):
        raise InputError(f"{run.path}: exists and is no run; name another folder with --run")
    if begun:
        check_same(recipe, recipes.read(run.recipe), run)


def check_same(recipe: Recipe, before: Recipe, run: RunFolder) -> None:
    """Refuse to resume with another recipe, naming each key that differs and would make another model."""
    faults = [
        f"{key}: {now!r} now, {then!r} when {run.path} began; a run resumes with its own recipe: "
        f"bertline train {run.recipe} --run {run.path} --resume"
        for key, (now, then) in recipes.differences(recipe, before, recipes.HARMLESS).items()
    ]
    if faults:
        raise InputError(*faults)


def check_deepspeed(config: dict[str, Any]) -> None:
    """Let DeepSpeed read its configuration before any data is.

    Raises:
        InputError: each key that a section of it does not know, and each value.
    """
    try:
        DeepSpeedConfig(copy.deepcopy(config))
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["input"], fault["msg"]) for fault in error.errors()]
        told = [f"deepspeed: {key}: found {found!r:.60}; {error.title}: {why}" for key, found, why in faults]
        raise InputError(*told) from None
    except Exception as error:  # of any kind: some keys are taken as they are
        raise InputError(f"deepspeed: {' '.join(str(error).split())}") from error


class Material(NamedTuple):
    """What a run begins with and learns from."""

    folder: Path
    """Of the model: the recipe's, or a student that was cut from it."""
    ready: Prepared
    """The data, with what the teacher says of it."""
    objective: Objective
    teacher: Teacher | None


def material(
    recipe: Recipe, whole: Path, tokenizer_folder: Path, precision: Precision, cache: Path, progress: Progress
) -> Material:
    """Read the data, cut the student, ask the teacher: what another run beside this one has not done already.

    Args:
        recipe: of the run.
        whole: the folder of the model that it names.
        tokenizer_folder: of that model.
        precision: that the teacher computes in.
        cache: where all that is made is kept.
        progress: shows how far it is.

    Raises:
        InputError: as `prepared.prepare`, `student.cut`, `student.prune`, `teacher.find` and `answers.outputs`.
    """
    folder = whole  # each node's own, as a hub's cache may be
    if recipe.student.layers is not None:
        folder = ranks.from_first(lambda: student.cut(whole, recipe.student, cache))
    made = ranks.from_first(lambda: prepared.prepare(recipe, tokenizer_folder, cache, progress))
    ready = prepared.load(recipe, made)
    task = ready.splits.task
    progress.say(describe(ready.splits))
    if recipe.student.is_pruned:
        folder = ranks.from_first(lambda: student.prune(folder, recipe, ready, tokenizer_folder, cache))
    labels = Loss(task.settings, recipe.training, ready.train.windows.targets)
    if recipe.teacher is None:
        return Material(folder, ready, Objective(labels), None)
    named = teacher.find(recipe, task, cache)
    size = deepspeed_config.micro_batch_size(recipe.training, dist.get_world_size())
    outputs = answers.outputs(named, ready, tokenizer_folder, precision, size, cache, progress)
    objective = Objective(labels, TeacherLoss(task.settings, recipe.distillation), recipe.distillation.weight)
    return Material(folder, ready._replace(train=replace(ready.train, teacher=outputs)), objective, named)


def comparing(
    recipe: Recipe, material: Material, tokenizer_folder: Path, precision: Precision
) -> Callable[[nn.Module], Relations] | None:
    """Makes a model's relations to a teacher that computes beside it; None where the recipe asks for none."""
    if material.teacher is None or not recipe.distillation.relations:
        return None
    return partial(
        teacher.beside, material.teacher, ready=material.ready, tokenizer_folder=tokenizer_folder,
        weight=recipe.distillation.relations, precision=precision,
    )  # fmt: skip


def resumed_from(run: RunFolder, now: State, progress: Progress) -> Found | None:
    """The checkpoint to go on from, with its state; None where the run was stopped before its first.

    Raises:
        InputError: it was made on other data or in another precision; or none is whole.
    """
    found = ranks.from_first(partial(checkpoints.newest, run.checkpoints, progress.say))
    if found is None:
        return None
    checkpoint, then = found
    faults = []
    if then.data != now.data:
        faults.append(f"{run.path}: the data is not what the run began with; restore it, or begin another run")
    if then.precision != now.precision:
        faults.append(
            f"{checkpoint}: made in {then.precision}, this machine would train in {now.precision}; resume on one like "
            "that which began"
        )
    if faults:
        raise InputError(*faults)
    return found


def make_engine(
    recipe: Recipe, folder: Path, task: Task, precision: Precision, steps: int, besides: dict[str, Any] | None = None
) -> Any:
    """DeepSpeed's engine around the model, its optimizer and its schedule; `besides` is added to its configuration."""
    config = deepspeed_config.configure(recipe, dist.get_world_size(), precision)
    loaded = model.load(folder, task, recipe.training)
    optimizer = model.optimizer(loaded, recipe.training)
    schedule = model.schedule(optimizer, recipe.training, steps)
    config |= besides or {}
    with imports.uncompiled():  # DeepSpeed imports Muon, which is to be compiled, whatever the optimizer is
        engine, *_ = deepspeed.initialize(model=loaded, optimizer=optimizer, lr_scheduler=schedule, config=config)
    return engine


def fitted(
    recipe: Recipe,
    material: Material,
    make_batches: Callable[[Training], Batches],
    precision: Precision,
    compare: Callable[[nn.Module], Relations] | None,
    progress: Progress,
) -> Recipe:
    """The recipe with micro-batches that the GPUs have memory for; a CPU's memory gives way before it says no."""
    if ranks.on_cpu():
        return recipe
    make_model = partial(model.load, material.folder, material.ready.splits.task, recipe.training)
    config = deepspeed_config.configure(recipe, dist.get_world_size(), precision)
    zero = DeepSpeedZeroConfig(**config["zero_optimization"])
    training = memory.fit(recipe.training, zero, make_model, make_batches, material.objective, precision, compare)
    asked = deepspeed_config.micro_batch_size(recipe.training, dist.get_world_size())
    if training.micro_batch_size != asked:
        progress.say(
            f"{asked} texts at once do not fit into memory: a rank computes {training.micro_batch_size}; a step sees "
            f"{training.batch_size} as before"
        )
    return recipe.model_copy(update={"training": training})


def started_engine(make: Callable[..., Any], found: Found | None, zero_stage: int) -> Any:
    """An engine at the first step, or at a checkpoint, whatever the number of ranks that have written it."""
    if found is None:
        return make()
    checkpoint, then = found
    if then.ranks != dist.get_world_size() and zero_stage > 0:
        return elastic_engine(make, checkpoint)
    engine = make()
    checkpoints.load(engine, checkpoint)
    return engine


def elastic_engine(make: Callable[..., Any], checkpoint: Path) -> Any:
    """An engine at a checkpoint that another number of ranks has written."""
    converted = ranks.from_first(lambda: elastic.convert(checkpoint))
    engine = make(besides=elastic.CONFIG)
    optimizer = engine.optimizer.optimizer
    groups = elastic.settings(optimizer)
    with elastic.padding_alone(engine.optimizer):
        checkpoints.load(engine, converted)
    elastic.repair(optimizer, groups, engine.lr_scheduler.get_last_lr())
    ranks.meet()
    if ranks.is_first():
        shutil.rmtree(converted)
    return engine


def claim(recipe: Recipe, run: RunFolder, splits: Splits, state: State, checkpoint: Path | None) -> None:
    """Write what a run begins with, or take it back to the checkpoint that it resumes from."""
    ranks.meet()  # every rank has seen the folder as it was
    if ranks.is_first():
        recipes.save(recipe, run.recipe)  # first: what has a recipe can be resumed
        if state.step == 0:
            splits.save(run)
        for written in (run.recipe, run.summary, run.best, *run.splits):
            files.remove_left(written)
        if checkpoint is not None:
            checkpoints.restore_best(checkpoint, run.best)
        checkpoints.set_aside(run.checkpoints, state.step)
        metrics.truncate(run.metrics, state.step, state.evaluated)
    ranks.meet()


def describe(splits: Splits) -> str:
    """The splits in a sentence."""
    counts = ", ".join(f"{count:,} {name}" for name, count in splits.counts().items())
    duplicates = f"; {splits.left_out}" if splits.duplicates else ""
    labels = f"; labels: {', '.join(splits.task.labels)}" if splits.task.labels else ""
    return f"texts: {counts}{labels}{duplicates}"


def describe_engine(recipe: Recipe, engine: Any, state: State, batches: Batches) -> str:
    """Model, ranks and steps in a sentence."""
    parameters = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in engine.module.parameters()]
    trained = sum(count for count, trains in parameters if trains) / 1e6
    where = "CPU" if ranks.on_cpu() else "GPU"
    start = f", resumed at step {state.step}" if state.step else ""
    return (
        f"{recipe.model}: {trained:.3g} of {sum(count for count, _ in parameters) / 1e6:.3g} M parameters train; "
        f"{state.ranks} {where} rank{'s' if state.ranks > 1 else ''}, {state.precision}, "
        f"ZeRO {recipe.training.zero_stage}; {batches.steps:,} steps of {recipe.training.batch_size} texts{start}"
    )
