"""Executed by each of two ranks: runs that one rank goes on with, and runs of one rank that two go on with."""

import sys
from contextlib import suppress
from pathlib import Path

from bertline.train import ranks
from tests.train.conftest import train_here

STAGES = (0, 1, 2, 3)
CHANGES = ("two-one-two", "one-two")
SETS = ["training.freeze.embeddings=true", "training.layer_decay=0.8", "training.save_steps=4", "training.best=loss"]


def sets(stage: int) -> list[str]:
    """One recipe for a stage, on any number of ranks: several groups of parameters, and frozen ones."""
    return [*SETS, f"training.zero_stage={stage}"]


def main(what: str, recipe: Path, folder: Path) -> None:
    """Begin runs on two ranks and stop them after a checkpoint, or go to the end of all that one rank had."""
    ranks.start()
    for stage in STAGES:
        if what == "begin":
            with suppress(KeyboardInterrupt):
                train_here(recipe, folder / f"two-one-two-{stage}", sets(stage), stop=6)
        else:
            for change in CHANGES:
                train_here(recipe, folder / f"{change}-{stage}", sets(stage), resume=True)
    ranks.stop()


if __name__ == "__main__":
    main(sys.argv[-3], *map(Path, sys.argv[-2:]))
