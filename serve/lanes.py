"""Which cores a text is computed on: one core each while texts wait, all cores together where one is alone.

Padding costs and a batch of long texts gains nothing, so every text is computed at its own length; cores that are kept
apart then give more texts a second than cores that work together, and cores together give the shorter wait. Short texts
are packed into a batch only where that was measured to pay (`bundle.Packing`).

One queue, first come first served, and a thread a core that takes from it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple

from bertline.artifacts.bundle import Packing
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text

CHARACTERS_A_TOKEN = 4
"""How many characters a token is reckoned to stand for, before a text is read: English has about 4.5."""


STAGES = ("queue", "tokenize", "run")
"""What a text goes through, in order, as `Answered` tells."""


class Computed(NamedTuple):
    """Answers of texts that were computed side by side, and the seconds that each step took."""

    answers: list[Answer]
    tokenize: float
    run: float


class Answered(NamedTuple):
    """The answer of a text, and the seconds it waited, was tokenized and was computed (with its neighbors, if any)."""

    answer: Answer
    queue: float
    tokenize: float
    run: float


class LateError(TimeoutError):
    """A text was not answered in time, or will not be."""

    def __init__(self, seconds: float = 0.0, done: float = 0.0) -> None:
        super().__init__("the text was not answered in time")
        self.seconds = seconds
        """What it takes by itself, on all cores, at the least; 0 where nobody knows."""
        self.done = done
        """The share of it that was computed."""


Left = Callable[[], float]
"""Seconds in which an answer is still of use: none where all who asked have gone."""


class Answerer(NamedTuple):
    """Who answers a text: several models may share the cores."""

    compute: Callable[[Sequence[Text], bool, Left], Computed]
    """Takes texts, whether they may have all cores, and how long anybody waits for them; called from several threads.
    Raises LateError, where it sees that this is not long enough."""
    packing: Packing | None = None
    """Up to which length how many of its texts are computed side by side; None for no length."""


@dataclass
class _Job:
    text: Text
    asked: Answerer
    deadline: float
    seconds: float
    future: Future[Answered] = field(default_factory=Future)
    since: float = field(default_factory=perf_counter)

    @property
    def is_short(self) -> bool:
        """Whether it may be packed, as far as its characters tell."""
        characters = sum(len(part) for part in self.text if part is not None)
        return self.asked.packing is not None and characters <= CHARACTERS_A_TOKEN * self.asked.packing.tokens

    def end(self, outcome: Answered | Exception) -> None:
        """Tell who asked, if they still wait: until now the future could be cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Lanes:
    """A queue of texts and the threads that answer them."""

    def __init__(self, count: int) -> None:
        """Start the threads: as many as texts are to be computed at once, one a core."""
        self._jobs: OrderedDict[Future[Answered], _Job] = OrderedDict()
        """Texts that wait, by their futures: one that is cancelled leaves wherever it stands."""
        self._changed = threading.Condition()
        self._running = 0
        self._backlog = 0.0
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, texts: Sequence[Text], asked: Answerer, deadline: float = float("inf"), seconds: Sequence[float] = ()
    ) -> list[Future[Answered]]:
        """Queue texts, side by side; a future for each.

        Args:
            texts: to be answered.
            asked: who answers them.
            seconds: that each is expected to take a lane, for `backlog`; none where nobody asks for that.
            deadline: on the clock of `time.perf_counter`; what waits then, or has windows left, fails with LateError.

        A text whose future is cancelled leaves the queue, or is computed no further. After `close` they raise
        RuntimeError.
        """
        expected = seconds or [0.0] * len(texts)
        jobs = [_Job(text, asked, deadline, each) for text, each in zip(texts, expected, strict=True)]
        with self._changed:
            if self._closed:
                raise RuntimeError("closed")
            self._jobs.update((job.future, job) for job in jobs)
            self._backlog += sum(expected)
            self._changed.notify(len(jobs))
        for job in jobs:
            job.future.add_done_callback(self._leave)
        return [job.future for job in jobs]

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._jobs)

    @property
    def backlog(self) -> float:
        """Seconds after which a text that is queued now is expected to begin."""
        return max(0.0, self._backlog) / self.count

    @property
    def count(self) -> int:
        """Texts that are computed at once."""
        return len(self._threads)

    def close(self) -> None:
        """Take no more texts, answer those that were taken, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _leave(self, future: Future[Answered]) -> None:
        """Nobody waits for a text any more: neither does it, nor does it count among those that others wait for."""
        if not future.cancelled():
            return
        with self._changed:
            job = self._jobs.pop(future, None)
            if job is not None:
                self._backlog = self._backlog - job.seconds if self._jobs else 0.0

    def _work(self) -> None:
        while self._answer():
            pass  # and hold nothing of it: a model that was swapped is to go

    def _answer(self) -> bool:
        """Wait for texts and answer them; False when there will be no more."""
        jobs = self._take()
        if not jobs:
            return False
        alone = self._running == 1 and not self._jobs
        now = perf_counter()
        try:
            computed = jobs[0].asked.compute([job.text for job in jobs], alone, partial(_left, jobs))
        except LateError as error:
            for job in jobs:
                job.end(error.with_traceback(None))  # which would hold all that was computed so far
        except BaseException as error:  # whatever fails is the asker's to hear; a panic of tokenizers is no Exception
            for job in jobs:
                job.end(error if isinstance(error, Exception) else RuntimeError(str(error)))
        else:
            for job, answer in zip(jobs, computed.answers, strict=True):
                job.end(Answered(answer, now - job.since, computed.tokenize, computed.run))
        with self._changed:
            self._running -= 1
        return True

    def _take(self) -> list[_Job]:
        """The next text, or several short ones; none when there will be no more."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                found = self._next()
                self._backlog = self._backlog - sum(job.seconds for job in found) if self._jobs else 0.0
                taken = [job for job in found if _is_wanted(job)]
                if taken:
                    self._running += 1
                    return taken

    def _next(self) -> list[_Job]:
        """The first text of the queue, with the short ones behind it where it is short, but no other lane's share."""
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
    """Whether a text is to be computed; what is late is told so."""
    if job.deadline < perf_counter():
        job.end(LateError())
    return not job.future.done()


def _left(jobs: Sequence[_Job]) -> float:
    """Seconds in which anybody waits for any of some texts."""
    return max((job.deadline for job in jobs if not job.future.done()), default=float("-inf")) - perf_counter()
