"""The program that each rank of a run executes:

    deepspeed --module bertline.train RECIPE [--set KEY=VALUE]... [--run DIR] [--resume]

`bertline train` starts the same program. Exit codes:

    0   done
    1   a rank died, hung or failed, or the loss was no longer finite
    2   the input is wrong; stderr says what
    75  stopped as asked by SIGTERM or SIGUSR1, or because DeepSpeed's launcher was killed: run again with --resume, or
        without if it stopped before its first step
"""

import argparse
import gc
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import BertlineError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder
from bertline.models import imports
from bertline.train import preemption

PATIENCE = 10.0
"""Seconds that other ranks let rank 0 report a fault common to all; DeepSpeed's launcher ends them once it exits."""
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # spinning threads make a busy machine twenty times slower
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # else torch prints a stack on each rank when another one dies
}
"""Environment variables that torch reads on import."""


def main() -> int:
    """Parse the command line and train; returns the exit code."""
    preemption.watch()
    parent = os.getppid()
    arguments = parse(sys.argv[1:])
    if arguments.local_rank is not None:  # DeepSpeed's launcher is the parent; any other may end before the run
        preemption.asked.set_without(parent)
        os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    try:
        recipe = recipes.load(arguments.recipe, arguments.set)  # before the heavy imports, so faults show at once
    except BertlineError as error:
        tell(str(error))
        return error.exit_code
    return train(recipe, RunFolder(arguments.run or Path("runs") / recipe.name), arguments.resume)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line of a rank."""
    parser = argparse.ArgumentParser(prog="bertline.train", description="Train on this rank.")
    parser.add_argument("recipe", type=Path, help="YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run folder (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="resume an unfinished run")
    parser.add_argument("--local_rank", type=int, help="set by DeepSpeed's launcher")
    return parser.parse_args(arguments)


def train(recipe: Recipe, run: RunFolder, resume: bool) -> int:
    """Train and finish a run as one of its ranks; returns the exit code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with imports.lean():
        from bertline.train import ranks, run_folder, setup, watchdog
        from bertline.train.finish import finish
        from bertline.train.progress import Progress
    gc.freeze()  # modules are never garbage, so keep the collector from scanning them

    try:
        ranks.check()
    except BertlineError as error:  # every rank of the machine has it
        tell(str(error))
        return error.exit_code
    with ExitStack() as held:  # hold the run until the other ranks know of a fault
        try:
            ranks.start()
            with watchdog.watching():
                run_folder.check(recipe, run, resume)  # before a lock is written beside a folder that is not a run
                held.enter_context(run_folder.alone(run))
                with setup.trainer(recipe, run, resume, Progress(ranks.is_first())) as (trainer, prepared):
                    trainer.train()
                    finish(trainer, prepared)
                ranks.barrier()  # rank 0 may have much to write, and is watched meanwhile
            ranks.stop()
        except Exception as error:
            return watchdog.end(error)
    return 0


def tell(faults: str) -> None:
    """Print a fault on rank 0; on other machines, their first rank prints it too unless it is ended within PATIENCE."""
    preemption.unwatch()
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(faults, file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """Exit; after a failure at once, since NCCL may wait for ranks that are gone when its process groups are freed."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
    sys.exit()


if __name__ == "__main__":
    leave(main())
