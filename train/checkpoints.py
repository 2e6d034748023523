"""Checkpoints for resuming: `checkpoints/step-N/`, complete or absent, and the choice of the one to continue from.

DeepSpeed writes a checkpoint in place and points to it before all ranks are done. Here all ranks write under a
temporary name, and rank 0 renames it when they have; `checkpoint.json` beside DeepSpeed's files says in plain JSON what
it is. Which checkpoint is newest is read from the names. All ranks must see the same folder.
"""

import shutil
from pathlib import Path
from typing import Any, Protocol

import deepspeed.comm as dist
from pydantic import BaseModel, ConfigDict, ValidationError

from bertline.artifacts import files
from bertline.artifacts.errors import InputError

TAG = "deepspeed"
"""The folder in a checkpoint that DeepSpeed's files stand in."""


class State(BaseModel):
    """Where a run stands: everything beside weights and optimizer that the next step depends on, and running totals."""

    model_config = ConfigDict(extra="forbid")

    ranks: int
    precision: str
    data: str
    """Fingerprint of the splits."""
    started: str
    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    computed_tokens: int = 0
    """With padding."""
    training_seconds: float = 0.0
    """Spent in optimizer steps."""
    seconds: float = 0.0
    """Spent in steps, evaluations and checkpoints."""


class Engine(Protocol):
    """What a DeepSpeed engine does for a checkpoint."""

    def save_checkpoint(self, save_dir: str, tag: str, save_latest: bool) -> Any: ...

    def load_checkpoint(self, load_dir: str, tag: str) -> Any: ...


def save(engine: Engine, state: State, folder: Path, keep: int) -> None:
    """Write `folder`/step-N on all ranks and remove all but the newest `keep`.

    Raises:
        InputError: it cannot be written, for want of space for example; older checkpoints are left.
    """
    temporary = folder / f".step-{state.step}"
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    try:
        engine.save_checkpoint(str(temporary), tag=TAG, save_latest=False)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"{temporary}: the checkpoint could not be written ({error}); {free / 1e6:,.0f} MB are free there; "
            "make room and continue with --resume"
        ) from error
    if dist.get_rank() == 0:
        files.write_text(temporary / "checkpoint.json", state.model_dump_json(indent=2) + "\n")
        files.publish(temporary, folder / f"step-{state.step}")
        for old in found(folder)[:-keep]:
            _remove(old)
    dist.barrier()


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    numbered = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*")]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdecimal())]


def read_state(checkpoint: Path) -> State:
    """What a checkpoint says of itself.

    Raises:
        InputError: its checkpoint.json is missing or damaged.
    """
    try:
        return State.model_validate_json((checkpoint / "checkpoint.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{checkpoint}: not readable ({error}); remove it to resume from the one before") from None


def load(engine: Engine, checkpoint: Path) -> None:
    """Put weights, optimizer and schedule of a checkpoint into an engine that has just been made."""
    engine.load_checkpoint(str(checkpoint), tag=TAG)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that a half-removed one is never taken for one."""
    doomed = checkpoint.with_name(f".{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
