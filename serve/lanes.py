"""Assigns texts to cores: one core per text while texts wait, all cores for a text that is alone.

Every text is computed at its own length, since padding costs time and batches of long texts gain nothing. One core per
text then gives the higher throughput, and all cores together the lower latency. Short texts are packed into a batch
only where export measured that it pays (`bundle.Packing`).

There is one first-in, first-out queue, and one thread per core that takes from it.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple

from bertline.artifacts.bundle import Packing
from bertline.artifacts.errors import BertlineError
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text

CHARACTERS_A_TOKEN = 4
"""Characters per token that are assumed before a text is tokenized; English has about 4.5."""


STAGES = ("queue", "tokenize", "run")
"""Stages of a text, in order: fields of `Answered`."""


class NoAnswerError(BertlineError):
    """The model gives no finite numbers for a text, so that there is no answer to it."""


class Computed(NamedTuple):
    """Answers to texts that were computed side by side, and the seconds that each step took."""

    answers: Sequence[Answer | NoAnswerError]
    tokenize: float
    run: float


class Answered(NamedTuple):
    """The answer to a text, and its seconds in each stage (shared with the texts computed beside it, if any)."""

    answer: Answer
    queue: float
    tokenize: float
    run: float


class LateError(TimeoutError):
    """A text was not answered before its deadline, or will not be."""

    def __init__(self, seconds: float = 0.0, done: float = 0.0) -> None:
        super().__init__("the text was not answered in time")
        self.seconds = seconds
        """Lower bound of the seconds that the text takes alone, on all cores; 0 if unknown."""
        self.done = done
        """Share of the text that was computed, from 0 to 1."""


Left = Callable[[], float]
"""Gives the seconds until nobody waits for an answer any more; -inf once every caller has gone."""


class Answerer(NamedTuple):
    """What answers a text: several models may share the lanes."""

    compute: Callable[[Sequence[Text], bool, Left], Computed]
    """Takes texts, whether they may use all cores, and the time left; called from several threads. Raises LateError if
    it sees that the time left is too short."""
    packing: Packing | None = None
    """Up to which length texts are packed, and how many at a time; None to pack none."""


@dataclass
class _Job:
    text: Text
    asked: Answerer
    deadline: float
    seconds: float
    future: Future[Answered] = field(default_factory=Future)
    since: float = field(default_factory=perf_counter)

    @property
    def characters(self) -> int:
        return sum(len(part) for part in self.text if part is not None)

    @property
    def is_short(self) -> bool:
        """Whether the text may be packed, judging by its characters."""
        return self.asked.packing is not None and self.characters <= CHARACTERS_A_TOKEN * self.asked.packing.tokens

    def end(self, outcome: Answered | Exception) -> None:
        """Set the outcome, unless the caller has cancelled the future, which is possible until now."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Lanes:
    """A queue of texts and the threads that answer them."""

    def __init__(self, count: int) -> None:
        """Start `count` threads, one per core: that many texts are computed at once."""
        self._jobs: OrderedDict[Future[Answered], _Job] = OrderedDict()
        """Waiting texts by their futures, so that a cancelled one can leave from any position."""
        self._changed = threading.Condition()
        self._running = 0
        self._backlog = 0.0
        self._characters = 0
        self._closed = False
        self._process = os.getpid()
        self._threads = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, texts: Sequence[Text], asked: Answerer, deadline: float = float("inf"), seconds: Sequence[float] = ()
    ) -> list[Future[Answered]]:
        """Queue texts, one directly behind the other; returns a future for each.

        A text whose future is cancelled leaves the queue; if it is being computed, its remaining windows are skipped.

        Args:
            texts: texts to answer.
            asked: what answers them.
            deadline: on the clock of `time.perf_counter`; a text that waits or has windows left then gets LateError.
            seconds: estimated seconds of each text on one lane, for `backlog`; empty if nobody reads that.

        Raises:
            RuntimeError: the lanes are closed, or belong to the process that this one was forked from.
        """
        if os.getpid() != self._process:  # before the lock, which may be held for ever
            raise RuntimeError("the bundle was loaded before the fork, which leaves its threads behind; load it after")
        expected = seconds or [0.0] * len(texts)
        jobs = [_Job(text, asked, deadline, each) for text, each in zip(texts, expected, strict=True)]
        with self._changed:
            if self._closed:
                raise RuntimeError("closed")
            self._jobs.update((job.future, job) for job in jobs)
            self._backlog += sum(expected)
            self._characters += sum(job.characters for job in jobs)
            self._changed.notify(len(jobs))
        for job in jobs:
            job.future.add_done_callback(self._leave)
        return [job.future for job in jobs]

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._jobs)

    @property
    def characters(self) -> int:
        """Characters of the texts in the queue."""
        return self._characters

    @property
    def backlog(self) -> float:
        """Estimated seconds until a text that is queued now begins."""
        return max(0.0, self._backlog) / self.count

    @property
    def count(self) -> int:
        """Number of texts computed at once."""
        return len(self._threads)

    def close(self) -> None:
        """Accept no more texts, answer the queued ones, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _leave(self, future: Future[Answered]) -> None:
        """Remove a cancelled text from the queue, and its time from the backlog."""
        if not future.cancelled():
            return
        with self._changed:
            job = self._jobs.pop(future, None)
            if job is not None:
                self._characters -= job.characters
                self._backlog = self._backlog - job.seconds if self._jobs else 0.0

    def _work(self) -> None:
        while self._answer():
            pass  # no locals here: they would keep a replaced model alive

    def _answer(self) -> bool:
        """Wait for texts and answer them; False once the lanes are closed and the queue is empty."""
        jobs = self._take()
        if not jobs:
            return False
        alone = self._running == 1 and not self._jobs
        now = perf_counter()
        try:
            computed = jobs[0].asked.compute([job.text for job in jobs], alone, partial(_left, jobs))
        except LateError as error:
            for job in jobs:
                job.end(error.with_traceback(None))  # the traceback would keep all outputs so far alive
        except BaseException as error:  # any failure goes to the caller; a panic in tokenizers is not an Exception
            for job in jobs:
                job.end(error if isinstance(error, Exception) else RuntimeError(str(error)))
        else:
            for job, answer in zip(jobs, computed.answers, strict=True):
                if isinstance(answer, NoAnswerError):
                    job.end(answer)
                else:
                    job.end(Answered(answer, now - job.since, computed.tokenize, computed.run))
        with self._changed:
            self._running -= 1
        return True

    def _take(self) -> list[_Job]:
        """The next text, or several short ones; none once the lanes are closed and the queue is empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                found = self._next()
                self._backlog = self._backlog - sum(job.seconds for job in found) if self._jobs else 0.0
                self._characters -= sum(job.characters for job in found)
                taken = [job for job in found if _is_wanted(job)]
                if taken:
                    self._running += 1
                    return taken
                del found, taken  # while this lane waits, they would keep a replaced model alive

    def _next(self) -> list[_Job]:
        """Pop the first text and, if it is short, the short ones behind it, up to this lane's share of the queue."""
        _, first = self._jobs.popitem(last=False)
        packing = first.asked.packing
        if packing is None or not first.is_short:
            return [first]
        taken = [first]
        share = min(packing.texts, -(-(len(self._jobs) + 1) // len(self._threads)))
        while len(taken) < share and self._jobs:
            following = next(iter(self._jobs.values()))
            if following.asked != first.asked or not following.is_short:
                break
            self._jobs.popitem(last=False)
            taken.append(following)
        return taken


def _is_wanted(job: _Job) -> bool:
    """Whether a text is still to be computed; fails one whose deadline has passed."""
    if job.deadline < perf_counter():
        job.end(LateError())
    return not job.future.done()


def _left(jobs: Sequence[_Job]) -> float:
    """Seconds until nobody waits for any of these texts."""
    return max((job.deadline for job in jobs if not job.future.done()), default=float("-inf")) - perf_counter()
