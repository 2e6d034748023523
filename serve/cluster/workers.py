"""The machines of a Ray cluster in place of a local model: what `bulk` asks of a loaded bundle, they do.

Rows are read, numbered, written and resumed by the same code as without Ray; only computing goes elsewhere. Each
machine has one worker, an actor that holds the bundle. The queue is that of `Lanes`, with two lanes per machine: one
block of texts is computed while the next is in transit. A worker that dies or cannot be reached is replaced, and its
block goes to another; a machine that joins takes the place of one that has left.

Ray Data would replace dead workers as well. But it reads ahead until its object store is full; with a lower limit, and
with the order of the rows preserved, it stalled once a machine had left and no other took its place: the blocks of that
machine waited for one, and all later blocks waited for those. Its source is a task as well, from which row numbers,
faults and the position in the file would have to be passed back as columns.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bertline import __version__
from bertline.artifacts import bundle
from bertline.artifacts.bundle import Packing
from bertline.artifacts.errors import BertlineError, first_line
from bertline.artifacts.say import Say
from bertline.serve.cluster.connection import connect, machines
from bertline.serve.cluster.worker import NodeWorker
from bertline.serve.lanes import Answered, Answerer, Computed, Lanes, Left
from bertline.tasks import catalog
from bertline.tasks.tokens import Text

DEEP = 2
"""Blocks in flight per worker, so that its cores are never idle between two."""
BLOCK = Packing(tokens=1 << 30, texts=256, gains={})
"""Texts of any length are sent this many at a time: sending takes a millisecond or two, computing far longer."""
TRIES = 5
"""Workers that may die on one block, or fail in a row to start on one machine, before the command ends."""
SECONDS = 1.0
"""Seconds between two looks at which machines the cluster has."""


class _Seat(NamedTuple):
    """A worker on its machine."""

    node: str
    """The machine's id."""
    host: str
    worker: Any
    """Handle of the `NodeWorker` actor."""


class Workers:
    """A worker on each machine; a context manager, which leaves the cluster on exit."""

    def __init__(self, folder: Path, say: Say) -> None:
        """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine, and start loading the bundle.

        Args:
            folder: the bundle's folder, at the same path on each machine.
            say: receives messages for the user.

        Raises:
            InputError: the folder is not a bundle, or as `connect`.
            DamagedError: as `bundle.load`.
        """
        loaded = bundle.load(folder)
        self.task, self.sha256 = catalog.make(loaded.manifest), loaded.sha256
        self._load = (folder.resolve(), self.sha256, __version__)
        self._say = say
        connect(log_to_driver=False)
        self.machines = len(machines())
        """Number of machines at the start; no more than these are used at once."""
        say(f"Ray: {self.machines} {'machine' if self.machines == 1 else 'machines'}")
        self._seats: dict[str, _Seat] = {}
        self._idle: SimpleQueue[_Seat] = SimpleQueue()
        self._fails: Counter[str] = Counter()
        self._fault: BertlineError | None = None
        self._closed = threading.Event()
        self._changing = threading.Lock()
        self._asked = Answerer(self._compute, BLOCK)
        self._lanes = Lanes(DEEP * self.machines)
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def submit(self, texts: Sequence[Text]) -> list[Future[Answered]]:
        """Queue texts; a future for each, which fails with InputError or DamagedError if loading a worker did."""
        return self._lanes.submit(texts, self._asked)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *reason: object) -> None:
        self._closed.set()
        self._keeper.join()
        self._lanes.close()
        ray.shutdown()

    def _keep(self) -> None:
        """Keep a worker on each machine; runs in a thread, whose failure is raised to those who wait for a worker."""
        try:
            while not self._closed.is_set():
                self._fill()
                self._closed.wait(SECONDS)
        except Exception as error:  # after any error at all, nothing would start a worker
            self._fault = BertlineError(f"workers can no longer be started: {first_line(error)}")

    def _fill(self) -> None:
        nodes = {node["NodeID"]: node for node in machines()}
        for seat in list(self._seats.values()):
            if seat.node not in nodes:
                self._lose(seat)
        for name in nodes.keys() - self._seats.keys():
            if len(self._seats) < self.machines:
                self._start(nodes[name])

    def _start(self, node: dict[str, Any]) -> None:
        cores = node["Resources"]["CPU"]
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = ray.remote(NodeWorker).options(num_cpus=cores, max_concurrency=DEEP, scheduling_strategy=there).remote()
        seat = _Seat(node["NodeID"], node["NodeManagerHostname"], actor)
        self._seats[seat.node] = seat
        actor.load.remote(*self._load, max(1, math.floor(cores))).future().add_done_callback(partial(self._ready, seat))

    def _ready(self, seat: _Seat, loaded: Future[str | None]) -> None:
        """Called by Ray once a worker has loaded the bundle or failed to."""
        error = loaded.exception()
        if error is None:
            self._fails[seat.node] = 0
            for _ in range(DEEP):
                self._idle.put(seat)
            self._say(f"{seat.host}: ready" + (f"; note: {notice}" if (notice := loaded.result()) else ""))
            return
        self._vacate(seat)
        self._fails[seat.node] += 1
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, BertlineError):
            self._fault = type(cause)(f"on {seat.host}: {cause}")
        elif self._fails[seat.node] >= TRIES:
            self._fault = BertlineError(f"on {seat.host}: no worker starts: {first_line(cause)}")

    def _compute(self, texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        """Have a worker answer texts, or another if it dies, however long that takes; runs in a lane's thread."""
        died = ""
        for _ in range(TRIES):
            seat = self._take()
            try:
                answers = ray.get(seat.worker.answer.remote(texts))
            except RayTaskError as error:  # caused by the texts: the worker is intact
                self._idle.put(seat)
                raise error.cause from error
            except RayError as error:  # the worker, its machine, the connection or the answers were lost
                died = first_line(error)
                self._lose(seat)
            else:
                self._idle.put(seat)
                return Computed(answers, 0.0, 0.0)
        raise BertlineError(f"{TRIES} workers in a row died on the same texts: {died}")

    def _take(self) -> _Seat:
        """Wait for an idle worker.

        Raises:
            BertlineError: a worker could not load the bundle, or none can be started.
            RuntimeError: the cluster was left meanwhile.
        """
        while self._fault is None:
            with contextlib.suppress(Empty):
                seat = self._idle.get(timeout=SECONDS)
                if self._seats.get(seat.node) is seat:
                    return seat
            if self._closed.is_set():
                raise RuntimeError("closed")
        raise self._fault

    def _lose(self, seat: _Seat) -> None:
        """Take a worker that does not answer out of use; the keeper starts another."""
        if self._vacate(seat):
            self._say(f"{seat.host}: its worker is gone; its texts go to another")
            ray.kill(seat.worker)

    def _vacate(self, seat: _Seat) -> bool:
        """Free a worker's seat; False if the seat is no longer its own, or another thread has freed it."""
        with self._changing:
            return self._seats.get(seat.node) is seat and self._seats.pop(seat.node) is seat
