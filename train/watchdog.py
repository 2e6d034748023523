"""Ends a run if a rank dies, stops or hangs: every rank exits with a code, and one of them prints a line that says why.

Each rank counts its progress in beats. All ranks execute the same steps, so their counts are comparable. Once per tick,
a thread of each rank publishes its count through torch's store and reads those of the others. A rank that is silent or
makes no progress for too long is a fault, and so is an error. The first fault posted is printed, and all ranks exit
with its code. Time is counted in ticks of this process, so suspending and resuming the whole job causes no fault.
"""

import itertools
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple, NoReturn

import deepspeed.comm as dist
import torch

from bertline.artifacts.errors import FULL, WRONG, BertlineError, InputError, one_line
from bertline.train import ranks

TICK = 1.0
"""Seconds between two exchanges."""
SILENCE = 8
"""Ticks of silence after which a rank counts as dead: its thread needs only a moment of each tick."""
EXITING = 5
"""Ticks that rank 0 has to exit by itself after a fault, since it tells its monitors how the run ended."""
FIRST = 600.0
"""Seconds without progress allowed in the first step, which compiles and allocates."""
ON_CPU, ON_GPU = 20.0, 600.0
"""Seconds allowed later, unless the recipe says otherwise; on GPUs as many as NCCL's own timeout."""
SLACK = 5
"""Multiple of its longest pause so far that a rank is always allowed: the passes of a large model take long."""


class Fault(NamedTuple):
    """Why a run ends, and the rank that reports it."""

    rank: int
    exit_code: int
    words: str


class Status(NamedTuple):
    """What a rank publishes about itself in each tick."""

    tick: int
    beats: int
    process: int
    host: str
    doing: str


class Heard(NamedTuple):
    """The last status of another rank, and this rank's ticks when it arrived and when its beats last changed."""

    status: Status
    arrived: int
    progressed: int


_watch: "Watch | None" = None
_watches = itertools.count()
"""Numbers the watches of this process: each has its own keys in the store."""


@contextmanager
def watching() -> Iterator[None]:
    """Watch the other ranks, and let them watch this one, while the block runs; a single rank is not watched.

    After an error the watch continues, so that `end` can find out which rank caused it.
    """
    global _watch
    if dist.get_world_size() > 1:
        _watch = Watch(dist.get_rank(), dist.get_world_size())
    yield
    if _watch is not None:
        _watch.leave()


def beat(doing: str) -> None:
    """Report progress: this rank now begins `doing`, for example "step 12, forward"."""
    if _watch is not None:
        _watch.beat(doing)


def allow(seconds: float | None) -> None:
    """Set how long a rank may make no progress from now on; None, as for a slow disk: forever."""
    if _watch is not None:
        _watch.allow(seconds)


@contextmanager
def patient() -> Iterator[None]:
    """Allow any pause while the block runs."""
    before = _watch.limit if _watch is not None else None
    allow(None)
    try:
        yield
    finally:
        allow(before)


def end(error: Exception) -> int:
    """End this rank after `error`, printing why unless another rank has already done so; returns the exit code.

    A defect of bertline is printed with its traceback.
    """
    if _watch is not None:
        return _watch.fail(error)
    fault = _fault_of(error, 0, "")
    _tell(fault, error)
    return fault.exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this process, ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return bool(re.search("out of memory|ALLOC_FAILED|can't allocate memory", str(error)))  # CUDA, cuBLAS, the CPU


class Watch:
    """The thread of a rank that publishes its progress and watches that of the others."""

    def __init__(self, rank: int, count: int) -> None:
        self._rank = rank
        self._others = [other for other in range(count) if other != rank]
        self.limit: float | None = None
        self._tick = self._beats = self._since = self._longest = self._allowed = 0
        self._doing = "the start"
        self._heard: dict[int, Heard] = {}
        self._store = ranks.store(f"watchdog/{next(_watches)}", timedelta(seconds=SILENCE * TICK))
        self._posting = threading.Lock()
        self._left, self._exiting = threading.Event(), threading.Event()
        self._ending: Fault | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def allow(self, seconds: float | None) -> None:
        """Like the function `allow`; a changed limit counts from now."""
        if seconds != self.limit:
            self.limit, self._allowed = seconds, self._tick

    def beat(self, doing: str) -> None:
        """Like the function `beat`."""
        if self.limit is not None:
            self._longest = max(self._longest, self._tick - max(self._since, self._allowed))
        self._since = self._tick
        self._doing = doing
        self._beats += 1

    def leave(self) -> None:
        """End the thread: this rank is done, so its silence is no fault."""
        self._left.set()
        self._exiting.set()
        self._thread.join()
        self._store.set(f"left/{self._rank}", "")

    def fail(self, error: Exception) -> int:
        """Like `end`; an error that only says that another rank is gone waits for that rank's fault to be found."""
        self._exiting.set()
        if _is_echo(error) and not is_out_of_memory(error):
            self._thread.join(2 * SILENCE * TICK)  # once it is found, the thread ends this process
        self._ending = self._post(_fault_of(error, self._rank, f"rank {self._rank}, {self._doing}: "), error)
        self._prepare_exit()
        return self._ending.exit_code

    def _watch(self) -> None:
        exchanges = ThreadPoolExecutor(1, "watchdog's exchanges")
        while not self._left.wait(TICK):
            self._tick += 1
            try:
                fault = exchanges.submit(self._exchange).result(SILENCE * TICK)
            except (RuntimeError, TimeoutError) as error:  # the store is rank 0's, and may be gone
                if self._ending is not None:  # this rank is exiting as well, and rank 0 was quicker
                    os._exit(self._ending.exit_code)
                self._end_without_store("died" if isinstance(error, RuntimeError) else "died or was stopped")
            if fault is not None:
                if self._rank == 0:  # it may be telling its monitors, or do so once the other ranks have exited
                    self._exiting.wait(EXITING * TICK)
                self._prepare_exit()
                os._exit(fault.exit_code)

    def _exchange(self) -> Fault | None:
        """The fault already posted, or one found among the other ranks and posted now."""
        fault = self._posted()
        if fault is None and (found := self._check_others()):
            fault = self._post(found)
        return fault

    def _end_without_store(self, how: str) -> NoReturn:
        """End this process: rank 0 is gone, and the store with it."""
        fault = self._gone(0, f"{how}: it can no longer be reached")
        if self._rank == 1:
            _tell(fault)
        if 0 in self._heard:
            _kill(self._heard[0].status)
        os._exit(fault.exit_code)

    def _prepare_exit(self) -> None:
        """Prepare to exit: rank 0, which hosts the store, waits until all others have read the fault."""
        with suppress(RuntimeError):
            if self._rank == 0:
                self._store.wait([f"left/{other}" for other in self._others], timedelta(seconds=4 * TICK))
            else:
                self._store.set(f"left/{self._rank}", "")

    def _post(self, fault: Fault, error: Exception | None = None) -> Fault:
        """Post a fault and print it, unless another was posted before; returns the one by which all ranks end."""
        with self._posting:
            dump = "\t".join(map(str, fault))
            with suppress(RuntimeError):  # if the store is gone, so are the other ranks
                if self._store.compare_set("fault", "", dump).decode() != dump:
                    return self._posted_fault()
            _tell(fault, error)
            return fault

    def _posted(self) -> Fault | None:
        with self._posting:  # else this process might exit before it has printed the fault that it posted
            return self._posted_fault() if self._store.check(["fault"]) else None

    def _posted_fault(self) -> Fault:
        rank, code, words = self._store.get("fault").decode().split("\t", 2)
        return Fault(int(rank), int(code), words)

    def _check_others(self) -> Fault | None:
        """Publish this rank's status and read the others'; returns a fault if a rank is silent or stuck."""
        status = Status(self._tick, self._beats, os.getpid(), socket.gethostname(), self._doing)
        self._store.set(f"status/{self._rank}", "\t".join(map(str, status)))
        for other in self._others:
            if self._store.check([f"left/{other}"]):
                self._heard.pop(other, None)
            elif self._store.check([f"status/{other}"]):
                tick, beats, process, host, doing = self._store.get(f"status/{other}").decode().split("\t", 4)
                self._hear(other, Status(int(tick), int(beats), int(process), host, doing))
        return self._silent() or self._stalled()

    def _hear(self, other: int, status: Status) -> None:
        before = self._heard.get(other)
        if before is None or before.status.beats != status.beats:
            self._heard[other] = Heard(status, self._tick, self._tick)
        elif before.status.tick != status.tick:
            self._heard[other] = Heard(status, self._tick, before.progressed)

    def _silent(self) -> Fault | None:
        for other, (status, arrived, _) in self._heard.items():
            if self._tick - arrived > SILENCE:
                _kill(status)
                silence = f"no sign of life for {SILENCE * TICK:.0f} seconds"
                return self._gone(other, f"died or was stopped: {silence}; its machine may have run out of memory")
        return None

    def _gone(self, other: int, how: str) -> Fault:
        """The fault of a rank that is gone, with this rank's own place, since all ranks take the same steps."""
        return Fault(self._rank, 1, f"rank {other} {how}; rank {self._rank} was at {self._doing}")

    def _stalled(self) -> Fault | None:
        """The fault of the ranks that are furthest behind, if they have made no progress for too long."""
        if self.limit is None or len(self._heard) < len(self._others):
            return None
        places = {other: (one.status.beats, one.progressed, one.status.doing) for other, one in self._heard.items()}
        places[self._rank] = self._beats, self._since, self._doing
        beats, since, doing = min(places.values())
        still = self._tick - max(since, self._allowed)
        if still * TICK <= max(self.limit, SLACK * self._longest * TICK):
            return None
        last = [str(rank) for rank, place in sorted(places.items()) if place[0] == beats]
        who = f"rank {last[0]}" if len(last) == 1 else f"ranks {', '.join(last)}"
        return Fault(self._rank, 1, f"{who}, {doing}: no progress for {still * TICK:.0f} seconds (training.timeout)")


def _kill(status: Status) -> None:
    """Kill a silent rank if it is on this machine: one that was only stopped would outlive the run."""
    if status.host == socket.gethostname():
        with suppress(ProcessLookupError):
            os.kill(status.process, signal.SIGKILL)


def _fault_of(error: Exception, rank: int, where: str) -> Fault:
    if isinstance(error, BertlineError):
        return Fault(rank, error.exit_code, str(error))
    if isinstance(error, OSError) and error.errno in FULL:
        words = f"{error.filename or 'the run folder'}: {error.strerror}; make room and continue with --resume"
        return Fault(rank, InputError.exit_code, words)
    if isinstance(error, OSError) and error.errno in WRONG:
        return Fault(rank, InputError.exit_code, f"{where}{error.filename or 'the disk'}: {error.strerror}")
    if is_out_of_memory(error):
        help_ = "lower training.micro_batch_size or tokens.max_length, or set training.gradient_checkpointing"
        return Fault(rank, 1, f"{where}out of memory; {help_}. Checkpoints and best/ are kept")
    return Fault(rank, 1, f"{where}{type(error).__name__}: {one_line(error)}")


def _is_echo(error: Exception) -> bool:
    """Whether an error only says that another rank is gone."""
    return isinstance(error, torch.distributed.DistError) or bool(re.search("gloo|NCCL", str(error)))


def _tell(fault: Fault, error: Exception | None = None) -> None:
    """Print a fault, after the traceback of an error that is a defect of bertline."""
    foreseen = fault.exit_code != 1 or isinstance(error, BertlineError)
    if error is not None and not foreseen and not is_out_of_memory(error):
        traceback.print_exception(error)
    print(fault.words, file=sys.stderr, flush=True)
