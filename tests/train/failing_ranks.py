"""Executed by each of two ranks: a run in which one rank fails, in a named way, in the forward pass of a step."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from bertline.models import pytorch
from bertline.train import __main__ as rank
from bertline.train import watchdog

STEP = 5


def hang() -> None:
    """Hang, as in a deadlock."""
    time.sleep(3600)


def stop() -> None:
    """Stop, as on a frozen machine."""
    os.kill(os.getpid(), signal.SIGSTOP)


def die() -> None:
    """Be killed, as by the kernel when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory() -> None:
    """Run out of memory, as on a GPU."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail() -> None:
    """Raise an unexpected error, as a defect would."""
    raise ValueError("a defect")


def main(way: str, victim: str, tick: str) -> int:
    """Run bertline.train on this rank, with ticks of `tick` seconds."""
    watchdog.TICK = float(tick)
    outputs, steps = pytorch.outputs, iter(range(1, 10**6))

    def failing(*arguments: Any) -> torch.Tensor:
        if os.environ["RANK"] == victim and next(steps) == STEP:
            ways: dict[str, Callable[[], None]] = {
                each.__name__: each for each in (hang, stop, die, run_out_of_memory, fail)
            }
            ways[way]()
        return outputs(*arguments)

    pytorch.outputs = failing  # type: ignore[assignment]
    return rank.main()


if __name__ == "__main__":
    sys.exit(main(*(sys.argv.pop() for _ in range(3))))
