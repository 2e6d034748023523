"""Runs the trials of a search side by side on the machines of a Ray cluster, with one task for the run of each fold.

This process holds the study and decides what runs next; each task starts DeepSpeed's launcher on the machine it is
given. A run on GPUs takes that many GPUs of one machine, a run on CPU ranks a whole machine. Losing a machine costs no
more than the work since the last checkpoint: its run is resumed on another.
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

from bertline.artifacts.errors import BertlineError, InputError, PreemptedError, first_line
from bertline.launch import deepspeed_launcher
from bertline.launch.search.trials import Job, Runner, Steps, Train, Trials, advance, do
from bertline.serve.cluster.connection import connect, machines

SECONDS = 1.0
"""Interval at which the number of machines, and whether to stop, are checked."""
TRIES = 5
"""Number of machines that may be lost during one run."""


def side_by_side(train: Train, gpus: int | None) -> Runner:
    """Run trials on the cluster that RAY_ADDRESS names, or with Ray on this machine.

    Args:
        train: trains on the machine that it is called on.
        gpus: GPUs that each run takes; None for CPU ranks.
    """

    def runner(trials: Trials) -> None:
        with _connected(), _noting_sigterm() as asked:
            _run(trials, train, gpus, asked)

    return runner


def _run(trials: Trials, train: Train, gpus: int | None, asked: list[int]) -> None:
    """Keep as many runs going as there is room for, until all trials are done or a stop is requested."""
    if not _room(gpus):
        raise InputError(f"--gpus {gpus}: no machine of the cluster has that many")
    going: dict[Any, tuple[int, Steps]] = {}
    try:
        while not asked:
            room = _room(gpus)
            while len(going) < room and (trial := trials.following([number for number, _ in going.values()])):
                _submit_next(going, *trial, None, train, gpus)
            if not going and room:
                return
            if not going:  # every machine that is large enough was lost; another may join
                time.sleep(SECONDS)
                continue
            for ended in ray.wait(list(going), timeout=SECONDS)[0]:
                _submit_next(going, *going.pop(ended), _fault(ended), train, gpus)
        raise PreemptedError(f"{trials.folder}: stopped as asked; the same command resumes it")
    finally:
        for task in going:
            ray.cancel(task)
        if going:
            ray.wait(list(going), num_returns=len(going), timeout=deepspeed_launcher.GRACE)


def _submit_next(
    going: dict[Any, tuple[int, Steps]],
    number: int,
    steps: Steps,
    fault: BertlineError | None,
    train: Train,
    gpus: int | None,
) -> None:
    """Submit the next run of a trial to the cluster, if it has one."""
    job = advance(steps, fault)
    if job is not None:
        absolute = job._replace(path=job.path.absolute(), run=job.run.absolute())
        needs = {"num_gpus": gpus, "num_cpus": 1} if gpus else {"num_cpus": min(_cpus())}
        task = ray.remote(_make).options(max_retries=TRIES, **needs)
        going[task.remote(absolute, train, Path.cwd())] = number, steps


def _make(job: Job, train: Train, folder: Path) -> None:
    """Make the run; executed in a Ray task, on the machine chosen for it."""
    os.chdir(folder)  # relative paths in the recipe start here
    do(job, train)


def _fault(task: Any) -> BertlineError | None:
    """The error of a task whose run failed, or None. Any other error is raised."""
    try:
        ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, BertlineError):
            return error.cause
        raise error.cause from None
    except RayError as error:
        return BertlineError(f"{TRIES} machines were lost during one run: {first_line(error)}")
    return None


def _room(gpus: int | None) -> int:
    """How many runs the cluster can hold at once."""
    if gpus:
        return sum(int(node["Resources"].get("GPU", 0) // gpus) for node in machines())
    return sum(int(cpus // min(_cpus())) for cpus in _cpus())


def _cpus() -> list[float]:
    """The number of CPUs of each machine."""
    return [node["Resources"]["CPU"] for node in machines()] or [1]


@contextmanager
def _connected() -> Iterator[None]:
    connect()
    try:
        with redirect_stdout(sys.stderr):  # Ray relays the machines' output to stdout, which is reserved for --json
            yield
    finally:
        ray.shutdown()


@contextmanager
def _noting_sigterm() -> Iterator[list[int]]:
    """Yield a list that collects SIGTERM, to be checked between two waits."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
