"""What each rank of a run executes:

    deepspeed --module bertline.train RECIPE [--set KEY=VALUE]... [--run DIR] [--resume]

`bertline train` builds that line. Exit 0: done; 1: the loss was no longer a
number; 2: the input is wrong, told on stderr; 75: asked to stop by SIGTERM or
SIGUSR1, it has saved a checkpoint and can go on with --resume.
"""

import argparse
import errno
import os
import sys
import time
from pathlib import Path

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import BertlineError, InputError
from bertline.artifacts.run import RunFolder
from bertline.train import preemption

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATIENCE = 10.0
"""Seconds that other ranks give rank 0 to tell a fault that all have; the launcher ends them once it has."""


def main() -> int:
    """Train; returns the exit code."""
    preemption.watch()
    arguments = parse(sys.argv[1:])
    if arguments.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    try:
        train(arguments.recipe, arguments.set, arguments.run, arguments.resume)
    except BertlineError as error:
        tell(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in FULL:
            raise
        tell(f"{error.filename or 'the run folder'}: {error.strerror}; make room and continue with --resume")
        return InputError.exit_code
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line of a rank."""
    parser = argparse.ArgumentParser(prog="bertline.train", description="Train on this rank.")
    parser.add_argument("recipe", type=Path, help="YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run folder (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="continue a run that did not finish")
    parser.add_argument("--local_rank", type=int, help="given by DeepSpeed's launcher")
    return parser.parse_args(arguments)


def train(path: Path, overrides: list[str], folder: Path | None, resume: bool) -> None:
    """Read the recipe, train, finish.

    Raises:
        BertlineError: the input is wrong (an InputError), or the loss was no longer a number.
    """
    recipe = recipes.load(path, overrides)  # before the heavy imports: a wrong recipe is told at once
    # Threads that spin while they wait make a busy machine twenty times slower; torch's OpenMP reads this on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from bertline.train import ranks, setup
    from bertline.train.finish import finish
    from bertline.train.progress import Progress

    ranks.start()
    run = RunFolder(folder or Path("runs") / recipe.name)
    with setup.trainer(recipe, run, resume, Progress(ranks.is_first())) as (trainer, prepared):
        trainer.train()
        finish(trainer, prepared)
    ranks.stop()


def tell(faults: str) -> None:
    """Say on stderr what was wrong, once: rank 0 does; another rank does if rank 0 has not after a while."""
    preemption.unwatch()
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)
    print(faults, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
