"""Checkpoints for resuming: `checkpoints/step-N/`, complete or absent, and the choice of the one to resume from.

DeepSpeed writes a checkpoint in place and points to it before all ranks are done. Here all ranks write and sync under a
temporary name; then rank 0 writes the index, `checkpoint.json`, with the size and sha256 of every file, and renames the
folder. The newest checkpoint is found by its name; one that does not match its index is skipped. All ranks must see the
same folder.

A checkpoint includes best/ as it was at that step: a run resumed on another number of ranks rounds its sums differently
and may never again reach the model that was best after the checkpoint.
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
"""The folder of a checkpoint that holds DeepSpeed's files."""
LEFT = (".step-*", ".universal-step-*")
"""Names of folders that a killed run may leave: half-written, half-removed or half-converted checkpoints."""
WRITER = re.compile("PytorchStreamWriter|inline_container")
"""Matches the RuntimeError that torch's file writer raises when the disk is full, and not those of a device."""
UNIVERSAL: dict[str, Any] = {"universal_checkpoint_info": {}}
"""DeepSpeed's converter to universal checkpoints requires this key; see elastic.py."""


class CheckpointEngine(Protocol):
    """The part of a DeepSpeed engine that writes and reads checkpoints."""

    def save_checkpoint(self, save_dir: str, tag: str, client_state: dict[str, Any], save_latest: bool) -> Any: ...

    def load_checkpoint(self, load_dir: str, tag: str) -> Any: ...


def save(engine: CheckpointEngine, state: State, run: RunFolder, keep: int) -> None:
    """Write checkpoints/step-N on all ranks and remove all but the newest `keep` checkpoints.

    Raises:
        InputError: it cannot be written, for example because the disk is full; older checkpoints remain.
    """
    folder = run.checkpoints
    temporary = folder / f".step-{state.step}"
    if ranks.is_first():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
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
    ranks.barrier()
    if ranks.is_first():
        index = Index(state=state, files=files.listing(temporary))
        files.write_text(temporary / INDEX, index.dump())
        files.publish(temporary, folder / f"step-{state.step}")
        for old in found(folder)[:-keep]:
            _remove(old)
    ranks.barrier()


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    numbered = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*")]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdecimal())]


class Found(NamedTuple):
    """A verified checkpoint and its state."""

    checkpoint: Path
    state: State


def newest(folder: Path, warn: Callable[[str], None]) -> Found | None:
    """The newest undamaged checkpoint in `folder`, or None if there are no checkpoints.

    Args:
        folder: holds the checkpoints.
        warn: is told of each damaged checkpoint that is skipped.

    Raises:
        InputError: all checkpoints are damaged, or another version of bertline wrote the newest one.
    """
    faults = []
    for checkpoint in reversed(found(folder)):
        try:
            return Found(checkpoint, verify(checkpoint))
        except DamagedError as error:
            faults.append(str(error))
            warn(f"{error}; skipping {checkpoint.name}")
    if faults:
        raise InputError(f"{folder}: all checkpoints are damaged; start another run with --run", *faults)
    return None


def set_aside(folder: Path, after: int) -> None:
    """Prepare a folder of checkpoints for a run that starts, or resumes, at step `after`.

    Later checkpoints, which the run will write again, are renamed to damaged-step-N. What a killed run left
    half-written, half-removed or half-converted is removed.
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
    """Load the weights, optimizer and schedule of a checkpoint into a new engine."""
    engine.load_checkpoint(str(checkpoint), tag=TAG)


def restore_best(checkpoint: Path, best: Path) -> None:
    """Restore best/ from a checkpoint, if it existed by then."""
    if (kept := checkpoint / best.name).exists():
        with files.replaced_folder(best) as folder:
            shutil.copytree(kept, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """Hard-link a file that is never written again, or copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint under another name, so that a half-removed one is never mistaken for a checkpoint."""
    doomed = checkpoint.with_name(f".{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
