"""Starts the ranks of a run like `bertline train`, but with another program instead of `bertline.train`."""

from collections.abc import Sequence
from pathlib import Path

from bertline.launch import deepspeed_launcher

PROGRAM = "bertline.train"


def start(
    program: str,
    recipe: Path,
    sets: Sequence[str],
    run: Path,
    *,
    ranks: int | None = None,
    gpus: int | None = None,
    words: Sequence[str] = (),
) -> int:
    """Run DeepSpeed's launcher to its end; returns its exit code.

    Args:
        program: the module that each rank executes, which calls `bertline.train`'s own `main` at its end.
        recipe: YAML file.
        sets: KEY=VALUE overrides of the recipe.
        run: folder of the run.
        ranks: number of CPU ranks, or
        gpus: number of GPUs.
        words: extra arguments that the program removes from the end of its command line.
    """
    line = deepspeed_launcher.command(recipe, sets, run, ranks=ranks, gpus=gpus)
    line[line.index(PROGRAM)] = program
    return deepspeed_launcher.run([*line, *words], deepspeed_launcher.environment(gpus=gpus, ranks=ranks))
