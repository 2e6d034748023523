"""The folder of a run: locking it, refusing an unsuitable one, and claiming it or rewinding it to a checkpoint."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.checkpoint import State
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder
from bertline.train import cache, checkpoints, metrics, preemption, ranks
from bertline.train.data.splitting import Splits


@contextmanager
def alone(run: RunFolder) -> Iterator[None]:
    """Hold a lock, on rank 0, so that no other process trains the run while the block runs, however it was started.

    Raises:
        InputError: another process holds the lock.
        PreemptedError: the launcher is gone, and another one may want the run.
    """
    busy = f"{run.path}: another process is training it; wait for it and its ranks, or name another folder with --run"
    with ExitStack() as held:

        def lock() -> None:
            if preemption.asked.is_set():
                raise PreemptedError(f"{run.path}: stopped as asked, before anything was done")
            held.enter_context(files.locked(cache.lock_of(run.path), busy))

        ranks.from_first(lock)
        yield


def check(recipe: Recipe, run: RunFolder, resume: bool) -> None:
    """Refuse a folder that does not hold what `resume` implies: an unfinished run, or nothing.

    Raises:
        InputError: it holds something else, or an unfinished run of a different recipe.
    """
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
        raise InputError(f"{run.path}: exists but is not a run; name another folder with --run")
    if begun:
        check_same(recipe, recipes.read(run.recipe), run)


def check_same(recipe: Recipe, before: Recipe, run: RunFolder) -> None:
    """Refuse to resume with another recipe, naming each key that differs and changes the model."""
    faults = [
        f"{key}: {now!r} now, {then!r} when {run.path} began; a run resumes with its own recipe: "
        f"bertline train {run.recipe} --run {run.path} --resume"
        for key, (now, then) in recipes.differences(recipe, before, recipes.HARMLESS).items()
    ]
    if faults:
        raise InputError(*faults)


def claim(recipe: Recipe, run: RunFolder, splits: Splits, state: State, checkpoint: Path | None) -> None:
    """Write the files that a run starts with, or rewind the run to the checkpoint that it resumes from."""
    ranks.barrier()  # every rank has seen the folder as it was
    if ranks.is_first():
        recipes.save(recipe, run.recipe)  # first: a folder with a recipe can be resumed
        if state.step == 0:
            splits.save(run)
        for written in (run.recipe, run.summary, run.best, *run.splits):
            files.remove_left(written)
        if checkpoint is not None:
            checkpoints.restore_best(checkpoint, run.best)
        checkpoints.set_aside(run.checkpoints, state.step)
        metrics.truncate(run.metrics, state.step, state.evaluated)
    ranks.barrier()
