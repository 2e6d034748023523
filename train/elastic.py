"""Loads ZeRO 1 to 3 checkpoints on a different number of ranks, by way of DeepSpeed's universal checkpoints.

ZeRO 0 keeps everything on every rank and needs none of this. https://www.deepspeed.ai/tutorials/universal-checkpointing/
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bertline.artifacts.errors import InputError, PreemptedError
from bertline.train import preemption
from bertline.train.checkpoints import TAG

CONFIG = {"checkpoint": {"load_universal": True}}
"""Configuration of an engine that loads what `convert` made."""


def convert(checkpoint: Path) -> Path:
    """Convert a checkpoint to a universal one, for any number of ranks, in a folder beside it; returns that folder.

    Raises:
        InputError: DeepSpeed's converter fails, for example because the disk is full.
        PreemptedError: the run was asked to stop; the signal has ended the converter, too.
    """
    folder = checkpoint.with_name(f".universal-{checkpoint.name}")
    shutil.rmtree(folder, ignore_errors=True)
    line = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint / TAG)]
    line += ["--output_folder", str(folder / TAG), "--num_extract_workers", "1", "--num_merge_workers", "1"]
    variables = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(line, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode < 0 and preemption.asked.is_set():
        raise PreemptedError(f"{checkpoint}: stopped as asked while it was converted for another number of ranks")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"{checkpoint}: could not be converted for another number of ranks: {reason}")
    return folder


@contextmanager
def padding_alone(optimizer: Any) -> Iterator[None]:
    """Let a rank load a universal checkpoint even if its share of a parameter group is only padding.

    Below ZeRO 3, a group with fewer elements than ranks, such as the single bias of a head, leaves the last ranks
    nothing but padding, yet DeepSpeed asks the group's first parameter for its step count.

    Args:
        optimizer: DeepSpeed's optimizer.
    """
    groups = getattr(optimizer, "bit16_groups", [])
    spared = [group[0] for group in groups if all(parameter._hp_mapping is None for parameter in group)]
    for parameter in spared:
        parameter._hp_mapping = SimpleNamespace(get_optim_state_keys=tuple)
        parameter.load_hp_checkpoint_state = lambda *_, **__: None
    yield
    for parameter in spared:
        parameter._hp_mapping = None


def settings(optimizer: Any) -> list[dict[str, Any]]:
    """The settings of each parameter group, for `repair` to restore."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def repair(optimizer: Any, groups: list[dict[str, Any]], learning_rates: list[float]) -> None:
    """Undo the damage that loading a universal checkpoint does to an optimizer.

    Under ZeRO 3, loading gives every group the settings of the first group, and makes all parameters share one step
    counter, which then advances several times per step. In every stage it leaves the counters on the CPU, where the
    fused GPU kernel does not accept them.

    Args:
        optimizer: torch's optimizer, inside DeepSpeed's.
        groups: the settings of each group, from `settings`.
        learning_rates: the schedule's present learning rate of each group.
    """
    for group, own, rate in zip(optimizer.param_groups, groups, learning_rates, strict=True):
        group.update({**own, "lr": rate})
    for parameter, state in optimizer.state.items():
        if "step" in state:
            state["step"] = state["step"].to(parameter.device, copy=True)
