"""A rank that dies, stops or hangs ends the run: every rank with an exit code, one of them with a line that says why.

Each rank counts how far it has come, beat by beat; all take the same way, so their counts compare. A thread of each
tells its count to the others once a tick, by torch's store, and reads theirs. A rank that says nothing, or stands still
for too long, is a fault; so is an error. The first fault that is posted is told, and all ranks end by it. Time is
counted in ticks of this process, so that a job that is suspended and woken as a whole finds no fault.
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

from bertline.artifacts.errors import FULL, WRONG, BertlineError, InputError
from bertline.train import ranks

TICK = 1.0
"""Seconds."""
SILENCE = 8
"""Ticks without a word after which a rank is taken for dead: its thread needs no more than a moment of each."""
COMING_OUT = 5
"""Ticks that rank 0 has to end by itself once there is a fault: it tells its monitors how the run ended."""
FIRST = 600.0
"""Seconds that a rank may stand still in its first step, which compiles and allocates."""
ON_CPU, ON_GPU = 20.0, 600.0
"""Seconds that it may later, unless the recipe says otherwise; on GPUs as many as NCCL would give."""
SLACK = 5
"""How many times as long as ever before a rank may always stand still: a large model's pass takes what it takes."""


class Fault(NamedTuple):
    """Why a run ends, and the rank that says so."""

    rank: int
    exit_code: int
    words: str


class Word(NamedTuple):
    """What a rank tells of itself in each tick."""

    tick: int
    beats: int
    process: int
    host: str
    doing: str


class Heard(NamedTuple):
    """The last word of another rank, the tick in which it came, and that in which the rank last went on."""

    word: Word
    came: int
    went_on: int


_watch: "Watch | None" = None
_watches = itertools.count()
"""Of this process: each has keys of its own in the store."""


@contextmanager
def watching() -> Iterator[None]:
    """Watch the other ranks, and let them watch this one, while the block runs; a single rank has no one to wait for.

    After an error the watch goes on, for `end` to find whose fault it was.
    """
    global _watch
    if dist.get_world_size() > 1:
        _watch = Watch(dist.get_rank(), dist.get_world_size())
    yield
    if _watch is not None:
        _watch.leave()


def beat(doing: str) -> None:
    """This rank has come as far as `doing`, for example "step 12, forward"."""
    if _watch is not None:
        _watch.beat(doing)


def allow(seconds: float | None) -> None:
    """How long a rank may stand still from now on; None: for ever, as a disk may need."""
    if _watch is not None:
        _watch.allow(seconds)


@contextmanager
def patient() -> Iterator[None]:
    """Let the ranks stand still while the block runs."""
    before = _watch.limit if _watch is not None else None
    allow(None)
    try:
        yield
    finally:
        allow(before)


def end(error: Exception) -> int:
    """Say why the run ends, if no other rank has said it, now that this one has raised `error`; returns the exit code.

    What is not for people, a defect, keeps its traceback.
    """
    if _watch is not None:
        return _watch.fail(error)
    fault = _own(error, 0, "")
    _tell(fault, error)
    return fault.exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this process, has no more memory to give."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return bool(re.search("out of memory|ALLOC_FAILED|can't allocate memory", str(error)))  # of CUDA, cuBLAS, the CPU


class Watch:
    """The thread of a rank that tells how far it has come, and reads how far the others have."""

    def __init__(self, rank: int, count: int) -> None:
        self._rank = rank
        self._others = [other for other in range(count) if other != rank]
        self.limit: float | None = None
        self._tick = self._beats = self._since = self._longest = self._allowed = 0
        self._doing = "the start"
        self._heard: dict[int, Heard] = {}
        self._store = ranks.store(f"watchdog/{next(_watches)}", timedelta(seconds=SILENCE * TICK))
        self._telling = threading.Lock()
        self._left, self._out = threading.Event(), threading.Event()
        self._ending: Fault | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def allow(self, seconds: float | None) -> None:
        """As the function; time counts from now if this is another limit than before."""
        if seconds != self.limit:
            self.limit, self._allowed = seconds, self._tick

    def beat(self, doing: str) -> None:
        """Count on."""
        if self.limit is not None:
            self._longest = max(self._longest, self._tick - max(self._since, self._allowed))
        self._since = self._tick
        self._doing = doing
        self._beats += 1

    def leave(self) -> None:
        """End the thread: this rank is done, and that it says no more is no fault."""
        self._left.set()
        self._out.set()
        self._thread.join()
        self._store.set(f"left/{self._rank}", "")

    def fail(self, error: Exception) -> int:
        """As `end`. An error that says only that another rank is gone waits for that one's fault to be found."""
        self._out.set()
        if _is_echo(error) and not is_out_of_memory(error):
            self._thread.join(2 * SILENCE * TICK)  # the thread ends this process once it is
        self._ending = self._post(_own(error, self._rank, f"rank {self._rank}, {self._doing}: "), error)
        self._bow_out()
        return self._ending.exit_code

    def _watch(self) -> None:
        talk = ThreadPoolExecutor(1, "watchdog's talk")
        while not self._left.wait(TICK):
            self._tick += 1
            try:
                fault = talk.submit(self._exchange).result(SILENCE * TICK)
            except (RuntimeError, TimeoutError) as error:  # the store is rank 0's; no answer is waited for without end
                if self._ending is not None:  # this process is on its way out, and rank 0 was quicker
                    os._exit(self._ending.exit_code)
                self._end_without_store("died" if isinstance(error, RuntimeError) else "died or was stopped")
            if fault is not None:
                if self._rank == 0:  # it may be telling its monitors, or be freed by the others' end to do so
                    self._out.wait(COMING_OUT * TICK)
                self._bow_out()
                os._exit(fault.exit_code)

    def _exchange(self) -> Fault | None:
        """The fault that was posted, or is now that the others' words are known."""
        fault = self._posted()
        if fault is None and (found := self._found()):
            fault = self._post(found)
        return fault

    def _end_without_store(self, how: str) -> NoReturn:
        """End this process, since rank 0 is gone and nothing more can be said to anyone."""
        fault = self._gone(0, f"{how}: it is not reached any more")
        if self._rank == 1:
            _tell(fault)
        if 0 in self._heard:
            _kill(self._heard[0].word)
        os._exit(fault.exit_code)

    def _bow_out(self) -> None:
        """Before a process ends: the store is rank 0's, which goes last, so that all can read whose fault it was."""
        with suppress(RuntimeError):
            if self._rank == 0:
                self._store.wait([f"left/{other}" for other in self._others], timedelta(seconds=4 * TICK))
            else:
                self._store.set(f"left/{self._rank}", "")

    def _post(self, fault: Fault, error: Exception | None = None) -> Fault:
        """The fault that all ranks end by: this one, which is told then, or another that was posted before."""
        with self._telling:
            dump = "\t".join(map(str, fault))
            with suppress(RuntimeError):  # where the store is gone, so are the others
                if self._store.compare_set("fault", "", dump).decode() != dump:
                    return self._posted_fault()
            _tell(fault, error)
            return fault

    def _posted(self) -> Fault | None:
        with self._telling:  # else this process might end before it has said what it posts
            return self._posted_fault() if self._store.check(["fault"]) else None

    def _posted_fault(self) -> Fault:
        rank, code, words = self._store.get("fault").decode().split("\t", 2)
        return Fault(int(rank), int(code), words)

    def _found(self) -> Fault | None:
        """Tell this rank's word and hear the others': is one silent, or standing still?"""
        word = Word(self._tick, self._beats, os.getpid(), socket.gethostname(), self._doing)
        self._store.set(f"word/{self._rank}", "\t".join(map(str, word)))
        for other in self._others:
            if self._store.check([f"left/{other}"]):
                self._heard.pop(other, None)
            elif self._store.check([f"word/{other}"]):
                tick, beats, process, host, doing = self._store.get(f"word/{other}").decode().split("\t", 4)
                self._hear(other, Word(int(tick), int(beats), int(process), host, doing))
        return self._silent() or self._still()

    def _hear(self, other: int, word: Word) -> None:
        before = self._heard.get(other)
        if before is None or before.word.beats != word.beats:
            self._heard[other] = Heard(word, self._tick, self._tick)
        elif before.word.tick != word.tick:
            self._heard[other] = Heard(word, self._tick, before.went_on)

    def _silent(self) -> Fault | None:
        for other, (word, came, _) in self._heard.items():
            if self._tick - came > SILENCE:
                _kill(word)
                silence = f"nothing heard of it for {SILENCE * TICK:.0f} seconds"
                return self._gone(other, f"died or was stopped: {silence}; perhaps memory ran out there")
        return None

    def _gone(self, other: int, how: str) -> Fault:
        """Of one that can tell no more how far it came: the steps are taken together."""
        return Fault(self._rank, 1, f"rank {other} {how}; rank {self._rank} was at {self._doing}")

    def _still(self) -> Fault | None:
        """The rank that has come least far, if it has stood there for too long."""
        if self.limit is None or len(self._heard) < len(self._others):
            return None
        places = {other: (word.beats, went_on, word.doing) for other, (word, _, went_on) in self._heard.items()}
        places[self._rank] = self._beats, self._since, self._doing
        beats, since, doing = min(places.values())
        still = self._tick - max(since, self._allowed)
        if still * TICK <= max(self.limit, SLACK * self._longest * TICK):
            return None
        last = [str(rank) for rank, place in sorted(places.items()) if place[0] == beats]
        who = f"rank {last[0]}" if len(last) == 1 else f"ranks {', '.join(last)}"
        return Fault(
            self._rank, 1, f"{who}, {doing}: no step forward for {still * TICK:.0f} seconds (training.timeout)"
        )


def _kill(word: Word) -> None:
    """End a rank that says no more, where it is on this machine: one that is stopped would outlive the run."""
    if word.host == socket.gethostname():
        with suppress(ProcessLookupError):
            os.kill(word.process, signal.SIGKILL)


def _own(error: Exception, rank: int, where: str) -> Fault:
    if isinstance(error, BertlineError):
        return Fault(rank, error.exit_code, str(error))
    if isinstance(error, OSError) and error.errno in FULL:
        words = f"{error.filename or 'the run folder'}: {error.strerror}; make room and continue with --resume"
        return Fault(rank, InputError.exit_code, words)
    if isinstance(error, OSError) and error.errno in WRONG:
        return Fault(rank, InputError.exit_code, f"{where}{error.filename or 'the disk'}: {error.strerror}")
    if is_out_of_memory(error):
        help_ = "training.micro_batch_size or tokens.max_length, or training.gradient_checkpointing"
        return Fault(rank, 1, f"{where}out of memory; less {help_} would help. Checkpoints and best/ are kept")
    return Fault(rank, 1, f"{where}{type(error).__name__}: {' '.join(str(error).split())}")


def _is_echo(error: Exception) -> bool:
    """Whether an error says no more than that another rank is gone."""
    return isinstance(error, torch.distributed.DistError) or bool(re.search("gloo|NCCL", str(error)))


def _tell(fault: Fault, error: Exception | None = None) -> None:
    if (
        error is not None
        and fault.exit_code == 1
        and not isinstance(error, BertlineError)
        and not is_out_of_memory(error)
    ):
        traceback.print_exception(error)
    print(fault.words, file=sys.stderr, flush=True)
