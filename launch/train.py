"""`bertline train`: checks the recipe, starts the ranks and reads the results."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bertline.artifacts import machine
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError, install_advice
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder, Summary
from bertline.artifacts.say import Say
from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices
from bertline.train import deepspeed_config


def start(
    path: Path, devices: Devices, overrides: Sequence[str] = (), *, run: Path | None = None, resume: bool = False
) -> Path:
    """Train a recipe in ranks started by DeepSpeed's launcher; returns the run's folder.

    Args:
        path: the recipe.
        devices: one for each rank.
        overrides: KEY=VALUE overrides of the recipe.
        run: folder of the run, runs/NAME by default.
        resume: continue from the newest checkpoint of the run.

    Raises:
        InputError: the recipe, the folder or the machine is at fault; before anything is started if possible.
        BertlineError: a rank failed; it has said why.
        PreemptedError: the run was asked to stop, and can be resumed.
    """
    recipe = recipes.load(path, overrides)
    folder = run or Path("runs", recipe.name)
    line = deepspeed_launcher.command(path, devices, overrides, folder, resume)
    if find_spec("deepspeed") is None:  # it is started as a process, never imported here
        raise InputError(f"deepspeed is not installed; {install_advice('train')}")
    variables = deepspeed_launcher.environment(devices)
    code = deepspeed_launcher.run(line, variables, deepspeed_launcher.stop_command(devices, folder))
    begun = ["--resume"] if RunFolder(folder).recipe.exists() else []
    if code == PreemptedError.exit_code:
        again = shlex.join(["bertline", "train", str(path), "--run", str(folder), *begun])
        raise PreemptedError(f"{folder}: stopped as asked; resume with {again} and the same --set, --gpus or --ranks")
    if code != 0:
        kind = InputError if code == InputError.exit_code else BertlineError
        raise kind(f"{folder}: training ended with exit code {code}; the reason is above")
    if not RunFolder(folder).summary.exists():  # DeepSpeed's launcher ends with 0 if pdsh was killed
        ended = f"{folder}: the launcher has ended, but the run is not finished; see that none of its ranks is left"
        raise BertlineError(f"{ended}, and start it again{' with --resume' if begun else ''}")
    return folder


@dataclass(frozen=True)
class Plan:
    """What `start` would run."""

    recipe: Recipe
    deepspeed: dict[str, Any]
    """DeepSpeed's configuration."""
    command: list[str]

    def words(self) -> str:
        """All three parts as text."""
        config = json.dumps(self.deepspeed, indent=2)
        return f"{recipes.dump(self.recipe)}---\n{config}\n---\n{shlex.join(self.command)}"

    def as_json(self) -> dict[str, Any]:
        """All three parts as plain values."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "deepspeed": self.deepspeed,
            "command": self.command,
        }


def plan(
    path: Path, devices: Devices, overrides: Sequence[str] = (), *, run: Path | None = None, resume: bool = False
) -> Plan:
    """What `start` would run with the same arguments; starts nothing, and raises what `start` raises before that."""
    recipe = recipes.load(path, overrides)
    line = deepspeed_launcher.command(path, devices, overrides, run or Path("runs", recipe.name), resume)
    return Plan(recipe, deepspeed_configuration(recipe, devices), line)


def finished(path: Path, devices: Devices, run: Path, say: Say, overrides: Sequence[str] = ()) -> Summary:
    """The summary of a recipe's run, which is started or resumed unless it is finished.

    Args:
        path: the recipe.
        devices: one for each rank.
        run: folder of the run.
        say: receives lines of progress.
        overrides: KEY=VALUE overrides of the recipe.

    Raises:
        InputError: the run is finished, but with another recipe; or as `start`.
        DamagedError: best/ of the finished run has changed.
        BertlineError: as `start`.
    """
    folder = RunFolder(run)
    if not folder.summary.exists():
        start(path, devices, overrides, run=run, resume=folder.recipe.exists())
        return runs.read_summary(run)
    other = recipes.differences(recipes.load(path, overrides), recipes.read(folder.recipe), recipes.HARMLESS)
    if other:
        keys = ", ".join(f"{key} was {then!r} and is {now!r}" for key, (now, then) in other.items())
        raise InputError(f"{run}: a finished run of another recipe: {keys}; move it away, or remove it to train again")
    say(f"{run} is finished already and is used as it is; remove it to train again")
    return runs.verify(run)


def deepspeed_configuration(recipe: Recipe, devices: Devices) -> dict[str, Any]:
    """The configuration that a run's ranks give to DeepSpeed, if their devices are like this machine's.

    If this machine has no GPU, those of a hostfile are assumed to compute in bf16, as all since Ampere do.

    Args:
        recipe: recipe of the run.
        devices: one for each rank.

    Raises:
        InputError: as `deepspeed_config.configure` and `choose_precision`.
    """
    on_cpu = devices.kind == "cpu"
    native = machine.computes_bf16() if on_cpu else _gpus_compute_bf16(elsewhere=devices.kind == "hosts")
    precision = deepspeed_config.choose_precision(recipe.training.precision, on_cpu, native)
    return deepspeed_config.configure(deepspeed_config.staged(recipe, precision), devices.ranks, precision)


def _gpus_compute_bf16(elsewhere: bool) -> bool:
    """Like `ranks.computes_bf16`, but without importing DeepSpeed, which takes seconds."""
    import torch

    if not torch.cuda.is_available():
        return elsewhere
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def result(folder: Path) -> dict[str, Any]:
    """What `bertline train --json` prints for a finished run."""
    kept = (
        "task",
        "metric",
        "best",
        "validation",
        "test",
        "ranks",
        "steps",
        "seconds",
        "tokens_per_second",
        "padding_share",
    )
    values = runs.read_summary(folder).model_dump(mode="json")
    return {"run": str(folder), **{key: values[key] for key in kept}}
