"""Executed by each of two ranks for test_ranks.py: what they exchange."""

import os
import signal
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import deepspeed
import pytest
import torch
from deepspeed.utils import groups

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.train import ranks, watchdog


def forbidden(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a host whose own name is 127.0.1.1 cannot have a gloo group beside NCCL's")


def refuse() -> NoReturn:
    raise InputError("one fault", "another")


def talk() -> None:
    """Both know what rank 0 makes, or why it cannot; one may be late."""
    machine.cores = lambda: 16
    ranks.start()
    assert torch.get_num_threads() == 8, "both share the cores"
    reducing = groups._get_data_parallel_group()  # made as an engine does, to reduce gradients
    torch.distributed.new_group = forbidden
    rank = int(os.environ["RANK"])
    for name in "abc":
        assert ranks.from_first(partial(Path, str(rank), name)) == Path("0", name)
    with pytest.raises(InputError) as caught:
        ranks.from_first(refuse)
    assert caught.value.faults == ("one fault", "another")
    assert ranks.from_first(lambda: rank) == 0, "the fault was that of one call only"
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
    """Each rank has its own cores, as Slurm binds tasks."""
    os.sched_getaffinity = lambda _: {int(os.environ["RANK"])}
    machine.cores = lambda: 16
    ranks.start()
    assert torch.get_num_threads() == 16
    ranks.stop()


def start_below_mpirun() -> None:
    """Both are started by a launcher that mpirun has started, as the third process of this machine."""
    os.environ[ranks.OMPI] = "2"
    ranks.start()
    deepspeed.initialize(model=torch.nn.Linear(1, 1), config={"train_batch_size": 2})
    ranks.stop()


def close_late() -> int:
    """Both are asked to stop; rank 0 is still closing its monitors when the other has reported it."""
    watchdog.TICK, watchdog.SILENCE, watchdog.EXITING = 0.1, 1000, 10**6
    ranks.start()
    try:
        with watchdog.watching():
            if ranks.is_first():
                watch = watchdog._watch
                assert watch is not None
                ranks.store("watchdog/0", ranks.WAIT).wait(["fault", "left/1"])
                watch._thread.join(2.0)  # the thread that could end this process
                print("closed", flush=True)
            raise PreemptedError("stopped as asked")
    except PreemptedError as error:
        return watchdog.end(error)
    return 0


def lose_the_first() -> int:
    """Rank 0 is killed while the other waits for it."""
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
