"""A checkpoint of ZeRO 1 to 3 on another number of ranks than wrote it, by way of DeepSpeed's universal checkpoints.

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

from bertline.artifacts.errors import InputError
from bertline.train.checkpoints import TAG

CONFIG = {"checkpoint": {"load_universal": True}}
"""Of the engine that loads what `convert` has made."""


def convert(checkpoint: Path) -> Path:
    """Rewrite a checkpoint beside itself, parameter by parameter, for any number of ranks; returns the folder.

    Raises:
        InputError: DeepSpeed's converter fails, for want of space for example.
    """
    folder = checkpoint.with_name(f".universal-{checkpoint.name}")
    shutil.rmtree(folder, ignore_errors=True)
    line = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint / TAG)]
    line += ["--output_folder", str(folder / TAG), "--num_extract_workers", "1", "--num_merge_workers", "1"]
    variables = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(line, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"{checkpoint}: could not be made ready for another number of ranks: {reason}")
    return folder


@contextmanager
def padding_alone(optimizer: Any) -> Iterator[None]:
    """Let a rank load a universal checkpoint whose share of a group of parameters is padding alone.

    Below ZeRO 3 a group that is smaller than the ranks, such as the one bias of a head, has nothing of its own for the
    last ones, and DeepSpeed asks the first parameter all the same how many steps it was taken.

    Args:
        optimizer: DeepSpeed's.
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
    """What the groups of an optimizer have of their own, to be put back by `repair`."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def repair(optimizer: Any, groups: list[dict[str, Any]], learning_rates: list[float]) -> None:
    """Undo what loading a universal checkpoint does to an optimizer.

    Under ZeRO 3 it gives every group the settings of the first, and one tensor to all parameters as their count of
    steps, which then counts several times a step; and in every stage it leaves that count on the CPU, where the fused
    kernel of a GPU does not take it from.

    Args:
        optimizer: torch's, inside DeepSpeed's.
        groups: as `settings` had them.
        learning_rates: of each group, as the schedule has them now.
    """
    for group, own, rate in zip(optimizer.param_groups, groups, learning_rates, strict=True):
        group.update({**own, "lr": rate})
    for parameter, state in optimizer.state.items():
        if "step" in state:
            state["step"] = state["step"].to(parameter.device, copy=True)
