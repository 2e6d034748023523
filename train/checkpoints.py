"""Checkpoints for resuming: `checkpoints/step-N/`, complete or absent, and the choice of the one to continue from.

DeepSpeed writes a checkpoint in place and points to it before all ranks are done. Here all ranks write under a
temporary name and sync; when they have, rank 0 writes the index, `checkpoint.json`, with size and sha256 of every file,
and renames the folder. Which checkpoint is newest is read from the names; one that is not what its index says is passed
over. All ranks must see the same folder.

best/ as it was then is a part of it: a run that goes on with other ranks, whose sums are rounded otherwise, may not
come again to what was best after the checkpoint.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bertline.artifacts import files
from bertline.artifacts.checkpoint import INDEX, Index, State, verify
from bertline.artifacts.errors import DamagedError, InputError
from bertline.artifacts.run import RunFolder
from bertline.train import ranks

TAG = "deepspeed"
"""The folder in a checkpoint that DeepSpeed's files stand in."""
LEFT = (".step-*", ".universal-step-*")
"""The names of folders that are no checkpoints, or not yet, or not any more."""
WRITER = re.compile("PytorchStreamWriter|inline_container")
"""What torch's writer names in the RuntimeError that it raises when the disk is full; other errors are a device's."""
UNIVERSAL: dict[str, Any] = {"universal_checkpoint_info": {}}
"""What DeepSpeed's converter looks for, so that another number of ranks can load a checkpoint."""


class CheckpointEngine(Protocol):
    """What a DeepSpeed engine does for a checkpoint."""

    def save_checkpoint(self, save_dir: str, tag: str, client_state: dict[str, Any], save_latest: bool) -> Any: ...

    def load_checkpoint(self, load_dir: str, tag: str) -> Any: ...


def save(engine: CheckpointEngine, state: State, run: RunFolder, keep: int) -> None:
    """Write checkpoints/step-N on all ranks and remove all but the newest `keep`.

    Raises:
        InputError: it cannot be written, for want of space for example; older checkpoints are left.
    """
    folder = run.checkpoints
    temporary = folder / f".step-{state.step}"
    if ranks.is_first():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.meet()
    try:
        engine.save_checkpoint(str(temporary), tag=TAG, client_state=UNIVERSAL, save_latest=False)
        if ranks.is_first() and run.best.exists():
            shutil.copytree(run.best, temporary / run.best.name, copy_function=_link)
        files.sync(temporary)
    except (OSError, RuntimeError) as error:
        if not (isinstance(error, OSError) or WRITER.search(str(error))):
            raise
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"{temporary}: the checkpoint could not be written ({error}); {free / 1e6:,.0f} MB are free there; "
            "make room and continue with --resume"
        ) from error
    ranks.meet()
    if ranks.is_first():
        index = Index(state=state, files=files.listing(temporary))
        files.write_text(temporary / INDEX, index.dump())
        files.publish(temporary, folder / f"step-{state.step}")
        for old in found(folder)[:-keep]:
            _remove(old)
    ranks.meet()


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    numbered = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*")]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdecimal())]


class Found(NamedTuple):
    """A checkpoint that is as it was written."""

    checkpoint: Path
    state: State


def newest(folder: Path, warn: Callable[[str], None]) -> Found | None:
    """The newest checkpoint in `folder` that is as it was written; None where there is none at all.

    Raises:
        InputError: there are some, all of them damaged; or another version of bertline wrote the newest.
    """
    faults = []
    for checkpoint in reversed(found(folder)):
        try:
            return Found(checkpoint, verify(checkpoint))
        except DamagedError as error:
            faults.append(str(error))
            warn(f"{error}; passing over {checkpoint.name}")
    if faults:
        raise InputError(f"{folder}: no checkpoint is whole; begin another run with --run", *faults)
    return None


def set_aside(folder: Path, after: int) -> None:
    """Make a folder ready for a run that goes on from a step, or begins.

    The checkpoints after it, which the run will write again, are renamed to damaged-step-N. What a run that was killed
    has left half-written, half-removed or half-converted is removed.
    """
    for pattern in LEFT:
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
    for checkpoint in found(folder):
        if int(checkpoint.name.removeprefix("step-")) > after:
            aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)


def load(engine: CheckpointEngine, checkpoint: Path) -> None:
    """Put weights, optimizer and schedule of a checkpoint into an engine that has just been made."""
    engine.load_checkpoint(str(checkpoint), tag=TAG)


def restore_best(checkpoint: Path, best: Path) -> None:
    """Take best/ back to what it was at a checkpoint; there may have been none yet."""
    if (kept := checkpoint / best.name).exists():
        with files.replaced_folder(best) as folder:
            shutil.copytree(kept, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """A second name for a file that nobody writes to any more; a copy where the file system has one name for each."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that a half-removed one is never taken for one."""
    doomed = checkpoint.with_name(f".{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
