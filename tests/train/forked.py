"""Ranks forked from a server that has already imported what they need: two start and end in about two seconds."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn

from bertline.artifacts import machine
from bertline.artifacts.run import RunFolder
from tests import forks
from tests.train import killed
from tests.train.killed import Stop

PATIENCE = 600.0
"""Seconds to reach a point, or the end, on a busy machine."""


@contextlib.contextmanager
def ranks(
    log: Path, work: Callable[..., int | None], *arguments: Sequence[object]
) -> Iterator[list[ForkServerProcess]]:
    """Start one rank for each sequence of arguments, with which it calls `work`; none outlives the block.

    Args:
        log: a new folder for the output of each rank, `log-N`, and for temporary files.
        work: returns an exit code; None means 0.
        arguments: one sequence per rank.
    """
    log.mkdir()
    port, made = machine.free_port(), []
    for rank, own in enumerate(arguments):
        made.append(forks.context().Process(target=_be, args=(rank, len(arguments), port, log, work, own)))
    try:
        for process in made:
            process.start()
        yield made
    finally:
        for process in made:
            if process.pid is not None:
                process.kill()
                process.join()


def two(log: Path, work: Callable[..., None], *arguments: object) -> None:
    """Run two ranks with the same arguments to their end. See `ranks`."""
    with ranks(log, work, arguments, arguments) as made:
        check_ended(made, log)


def life(
    recipe: Path, sets: Sequence[str], run: RunFolder, log: Path, stops: Sequence[Stop | None]
) -> contextlib.AbstractContextManager[list[ForkServerProcess]]:
    """Ranks that start a run, or resume it.

    Args:
        recipe: YAML file.
        sets: overrides of recipe keys.
        run: the run folder.
        log: see `ranks`.
        stops: where each rank is to wait.
    """
    return ranks(log, killed.live, *((recipe, sets, run.path, stop) for stop in stops))


def _be(
    rank: int, count: int, port: int, log: Path, work: Callable[..., int | None], arguments: Sequence[object]
) -> NoReturn:
    """Become rank `rank` of `count`."""
    number, ranks = str(rank), str(count)
    os.environ.update(RANK=number, LOCAL_RANK=number, WORLD_SIZE=ranks, LOCAL_SIZE=ranks)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    stream = (log / f"log-{rank}").open("w")
    os.dup2(stream.fileno(), sys.stdout.fileno())
    os.dup2(stream.fileno(), sys.stderr.fileno())
    tempfile.tempdir = str(log)  # what a killed rank leaves there is removed with the test's folder
    code = work(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def check_ended(ranks: Sequence[ForkServerProcess], log: Path, code: int = 0) -> None:
    """Wait for all ranks to end with an exit code."""
    for process in ranks:
        process.join(PATIENCE)
        assert process.exitcode == code, told(log)


def told(log: Path) -> str:
    """The output of all ranks."""
    return "\n".join(f"{path}: {path.read_text()}" for path in sorted(log.glob("log-*")))
