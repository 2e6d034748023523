"""Ranks forked from a server that has imported all that they need: two of them come and go in about two seconds."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from bertline.artifacts.run import RunFolder
from tests import forks
from tests.train import killed
from tests.train.killed import Stop

PATIENCE = 120.0
"""Seconds to come to a point, or to the end, on a busy machine."""


@contextlib.contextmanager
def life(
    recipe: Path, sets: Sequence[str], run: RunFolder, log: Path, stops: Sequence[Stop | None]
) -> Iterator[list[ForkServerProcess]]:
    """Ranks that begin a run, or resume it; none outlives the block.

    Args:
        recipe: YAML file.
        sets: overrides.
        run: its folder.
        log: folder that is made for what each rank says, `log-N`.
        stops: where each rank is to stand.
    """
    log.mkdir()
    ranks, port = [], free_port()
    for rank, stop in enumerate(stops):
        arguments = (rank, len(stops), port, recipe, sets, run.path, log / f"log-{rank}", stop)
        ranks.append(forks.context().Process(target=killed.rank, args=arguments))
    try:
        for process in ranks:
            process.start()
        yield ranks
    finally:
        for process in ranks:
            if process.pid is not None:
                process.kill()
                process.join()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def check_ended(ranks: Sequence[ForkServerProcess], log: Path, code: int = 0) -> None:
    """Wait for all ranks to end with an exit code."""
    for process in ranks:
        process.join(PATIENCE)
        assert process.exitcode == code, told(log)


def told(log: Path) -> str:
    """What the ranks have said."""
    return "\n".join(f"{path}: {path.read_text()}" for path in sorted(log.iterdir()))
