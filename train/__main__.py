"""What each rank of a run executes:

    deepspeed --module bertline.train RECIPE [--set KEY=VALUE]... [--run DIR] [--resume]

`bertline train` starts the same. Exit 0: done; 1: a rank died, hung or failed, or the loss was no longer a number; 2:
the input is wrong, told on stderr; 75: asked to stop by SIGTERM or SIGUSR1, it has saved a checkpoint and can go on
with --resume, or, stopped before its first step, without.
"""

import argparse
import gc
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from bertline.artifacts import imports
from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import BertlineError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder
from bertline.train import preemption

PATIENCE = 10.0
"""Seconds that other ranks give rank 0 to tell a fault that all have; DeepSpeed's launcher ends them once it has."""
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait make a busy machine twenty times slower
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # when a rank dies, the others' torch prints its own stack
}
"""Read by torch on import."""


def main() -> int:
    """Train; returns the exit code."""
    preemption.watch()
    arguments = parse(sys.argv[1:])
    if arguments.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    try:
        recipe = recipes.load(arguments.recipe, arguments.set)  # before the heavy imports: it is told at once
    except BertlineError as error:
        tell(str(error))
        return error.exit_code
    return train(recipe, RunFolder(arguments.run or Path("runs") / recipe.name), arguments.resume)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line of a rank."""
    parser = argparse.ArgumentParser(prog="bertline.train", description="Train on this rank.")
    parser.add_argument("recipe", type=Path, help="YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run folder (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="continue a run that did not finish")
    parser.add_argument("--local_rank", type=int, help="given by DeepSpeed's launcher")
    return parser.parse_args(arguments)


def train(recipe: Recipe, run: RunFolder, resume: bool) -> int:
    """Train and finish, as one of the ranks; returns the exit code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with imports.lean():
        from bertline.train import ranks, run_folder, setup, watchdog
        from bertline.train.finish import finish
        from bertline.train.progress import Progress
    gc.freeze()  # modules stay: nothing is to be found in them later on

    try:
        ranks.check()
    except BertlineError as error:  # as all ranks of a machine have it
        tell(str(error))
        return error.exit_code
    with ExitStack() as held:  # while other ranks are told of a fault the run is still theirs
        try:
            ranks.start()
            with watchdog.watching():
                run_folder.check(recipe, run, resume)  # before there is a lock beside what is none
                held.enter_context(run_folder.alone(run))
                with setup.trainer(recipe, run, resume, Progress(ranks.is_first())) as (trainer, prepared):
                    trainer.train()
                    finish(trainer, prepared)
                ranks.meet()  # the first may have much to write, and is watched until it has
            ranks.stop()
        except Exception as error:
            return watchdog.end(error)
    return 0


def tell(faults: str) -> None:
    """Say on stderr what was wrong: rank 0 does; one rank of each other machine does if it is not ended in a while."""
    preemption.unwatch()
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(faults, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
