"""The trials of a search side by side, on the machines of a Ray cluster: a task makes the run of a fold.

This process keeps the study and says what is next; a task starts DeepSpeed's launcher on the machine that it is given.
A run on GPUs takes so many of a machine, one on CPU ranks a whole machine. A machine that is lost costs no more than
what was done since the last checkpoint: its run is resumed on another.
https://docs.ray.io/en/latest/ray-core/tasks.html
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.launch import deepspeed_launcher
from bertline.launch.search.trials import Engine, Job, Steps, Train, Trials, advance, do
from bertline.serve.cluster.connection import connect, first_line, machines

SECONDS = 1.0
"""Between two looks at how many machines there are, and whether to stop."""
TRIES = 5
"""Machines that may be lost over one run."""


def side_by_side(train: Train, gpus: int | None) -> Engine:
    """Has the runs made by the cluster that RAY_ADDRESS names, or by Ray on this machine.

    Args:
        train: makes a run on the machine that it is called on.
        gpus: that a run takes; none for CPU ranks.
    """

    def engine(trials: Trials) -> None:
        with _connected(), _noticing() as asked:
            _run(trials, train, gpus, asked)

    return engine


def _run(trials: Trials, train: Train, gpus: int | None, asked: list[int]) -> None:
    """Keep as many runs going as there is room for, until all trials are done or it is asked to stop."""
    if not _room(gpus):
        raise InputError(f"--gpus {gpus}: no machine of the cluster has so many")
    going: dict[Any, tuple[int, Steps]] = {}
    try:
        while not asked:
            room = _room(gpus)
            while len(going) < room and (trial := trials.following([number for number, _ in going.values()])):
                _go_on(going, *trial, None, train, gpus)
            if not going and room:
                return
            if not going:  # every machine that is large enough is lost: another may come
                time.sleep(SECONDS)
                continue
            for ended in ray.wait(list(going), timeout=SECONDS)[0]:
                _go_on(going, *going.pop(ended), _fault(ended), train, gpus)
        raise PreemptedError(f"{trials.folder}: stopped as asked; the same command goes on")
    finally:
        for task in going:
            ray.cancel(task)
        if going:
            ray.wait(list(going), num_returns=len(going), timeout=deepspeed_launcher.GRACE)


def _go_on(
    going: dict[Any, tuple[int, Steps]],
    number: int,
    steps: Steps,
    fault: BertlineError | None,
    train: Train,
    gpus: int | None,
) -> None:
    """Give the next run of a trial to the cluster, if there is one."""
    job = advance(steps, fault)
    if job is not None:
        absolute = job._replace(path=job.path.absolute(), run=job.run.absolute())
        needs = {"num_gpus": gpus, "num_cpus": 1} if gpus else {"num_cpus": min(_cpus())}
        task = ray.remote(_make).options(max_retries=TRIES, **needs)
        going[task.remote(absolute, train, Path.cwd())] = number, steps


def _make(job: Job, train: Train, folder: Path) -> None:
    """In a task, on the machine that has the run."""
    os.chdir(folder)  # where the recipe's own paths begin
    do(job, train)


def _fault(task: Any) -> BertlineError | None:
    """Why a task failed, if it did; what is no fault of a run is raised."""
    try:
        ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, BertlineError):
            return error.cause
        raise error.cause from None
    except RayError as error:
        return BertlineError(f"{TRIES} machines were lost over a run, one after another: {first_line(error)}")
    return None


def _room(gpus: int | None) -> int:
    """Runs that the cluster holds at once."""
    if gpus:
        return sum(int(node["Resources"].get("GPU", 0) // gpus) for node in machines())
    return sum(int(cpus // min(_cpus())) for cpus in _cpus())


def _cpus() -> list[float]:
    """CPUs of each machine."""
    return [node["Resources"]["CPU"] for node in machines()] or [1]


@contextmanager
def _connected() -> Iterator[None]:
    connect()
    try:
        with redirect_stdout(sys.stderr):  # Ray tells on stdout what the machines say, which belongs to --json
            yield
    finally:
        ray.shutdown()


@contextmanager
def _noticing() -> Iterator[list[int]]:
    """SIGTERM is noted in the list, and acted on between two looks."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
