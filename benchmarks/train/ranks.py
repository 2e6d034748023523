"""The ranks of a run as `bertline train` starts them, with another program in the place of `bertline.train`."""

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
        program: the module that each rank executes; it ends in `bertline.train`'s own `main`.
        recipe: YAML file.
        sets: KEY=VALUE.
        run: its folder.
        ranks: on the CPU, or
        gpus: on as many GPUs.
        words: what the program takes off the end of its command line.
    """
    line = deepspeed_launcher.command(recipe, sets, run, ranks=ranks, gpus=gpus)
    line[line.index(PROGRAM)] = program
    return deepspeed_launcher.run([*line, *words], deepspeed_launcher.environment(gpus=gpus, ranks=ranks))
