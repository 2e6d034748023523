"""Starts the ranks of a run like `bertline train`, but with another program instead of `bertline.train`."""

from collections.abc import Sequence
from pathlib import Path

from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices

PROGRAM = "bertline.train"


def start(
    program: str, recipe: Path, devices: Devices, sets: Sequence[str], run: Path, words: Sequence[str] = ()
) -> int:
    """Run DeepSpeed's launcher to its end; returns its exit code.

    Args:
        program: the module that each rank executes, which calls `bertline.train`'s own `main` at its end.
        recipe: YAML file.
        devices: one for each rank.
        sets: KEY=VALUE overrides of the recipe.
        run: folder of the run.
        words: extra arguments that the program removes from the end of its command line.
    """
    line = deepspeed_launcher.command(recipe, devices, sets, run)
    line[line.index(PROGRAM)] = program
    return deepspeed_launcher.run([*line, *words], deepspeed_launcher.environment(devices))
