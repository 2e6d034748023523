"""Executed by each of two ranks: what they say together, looked at by test_ranks.py, all in one launch to save time."""

import os
import signal
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from deepspeed.utils import groups

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.train import ranks, watchdog


def forbidden(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("hosts that know themselves by 127.0.1.1 have no group of gloo's beside NCCL's")


def refuse() -> NoReturn:
    raise InputError("one fault", "another")


def talk() -> None:
    """What rank 0 makes, or why it does not, is known to both; one may be late."""
    machine.cores = lambda: 16
    ranks.start()
    assert torch.get_num_threads() == 8, "both may use the same"
    reducing = groups._get_data_parallel_group()  # as an engine makes it, to reduce gradients in
    torch.distributed.new_group = forbidden
    rank = int(os.environ["RANK"])
    for name in "abc":
        assert ranks.from_first(partial(Path, str(rank), name)) == Path("0", name)
    with pytest.raises(InputError) as caught:
        ranks.from_first(refuse)
    assert caught.value.faults == ("one fault", "another")
    assert ranks.from_first(lambda: rank) == 0, "the fault was of one call"
    machine.computes_bf16 = lambda: rank == 0
    assert not ranks.computes_bf16(), "the least capable decides"
    for group in (None, reducing):
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=0.2), group)
    ranks.be_patient()
    time.sleep(1.0 - rank)
    torch.distributed.all_reduce(torch.ones(1), group=reducing)
    time.sleep(1.0 - rank)
    ranks.stop()


def start_bound() -> None:
    """Each has cores of its own, as Slurm binds tasks."""
    os.sched_getaffinity = lambda _: {int(os.environ["RANK"])}
    machine.cores = lambda: 16
    ranks.start()
    assert torch.get_num_threads() == 16
    ranks.stop()


def close_late() -> int:
    """Both are asked to stop; rank 0 still tells its monitors when the other one has said so."""
    watchdog.TICK, watchdog.SILENCE, watchdog.COMING_OUT = 0.1, 1000, 10**6
    ranks.start()
    try:
        with watchdog.watching():
            if ranks.is_first():
                watch = watchdog._watch
                assert watch is not None
                ranks.store("watchdog/0", ranks.WAIT).wait(["fault", "left/1"])
                watch._thread.join(2.0)  # the thread that might end this process
                print("closed", flush=True)
            raise PreemptedError("stopped as asked")
    except PreemptedError as error:
        return watchdog.end(error)
    return 0


def lose_the_first() -> int:
    """Rank 0 is killed once the other one waits for it."""
    watchdog.TICK, watchdog.SILENCE = 0.1, 100

    def end() -> None:
        ranks.store("test", ranks.WAIT).wait(["here"])
        os.kill(os.getpid(), signal.SIGKILL)

    ranks.start()
    try:
        with watchdog.watching():
            if not ranks.is_first():
                ranks.store("test", ranks.WAIT).set("here", "")
            ranks.from_first(end)
    except Exception as error:
        return watchdog.end(error)
    return 0
