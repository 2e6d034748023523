"""From a request's texts to their answers: admission control, the time limit, and clients that disconnect."""

import asyncio
import math
from collections.abc import Sequence
from time import perf_counter

from starlette.requests import ClientDisconnect, Request

from bertline.serve.http.limits import Limits
from bertline.serve.http.metrics import Metrics
from bertline.serve.http.refusals import RefusedError
from bertline.serve.http.shelf import Entry
from bertline.serve.lanes import Answered, Lanes, LateError
from bertline.tasks.tokens import Text

MOST_WAITING = 4096
"""Most texts in the queue, however fast the model is: they take memory."""
MOST_CHARACTERS = 1 << 25
"""Characters in the queue from which on no text is admitted to it, likewise: as many texts, each as long as a request
may have them, would take hundreds of megabytes."""
SOON = 0.02
"""Seconds before the first check for a disconnected client: most answers are ready by then, and checking costs."""
SHARE = 0.5
"""Share of the time limit that a request may be estimated to wait; the rest is a margin for the estimate's errors."""


class Answering:
    """Admits requests and has the models answer their texts."""

    def __init__(self, lanes: Lanes, limits: Limits, metrics: Metrics) -> None:
        self.lanes, self.limits, self.metrics = lanes, limits, metrics

    def refuse_if_full(self) -> None:
        """Raise RefusedError 503 if not even one more text would be answered in time; costs next to nothing."""
        if self.lanes.waiting >= MOST_WAITING or self._is_full(self.lanes.backlog):
            raise self.overloaded()

    async def answer(self, request: Request, entry: Entry, texts: Sequence[Text]) -> list[Answered]:
        """Answer texts, in order.

        Raises:
            RefusedError: 503 if they would not be, or were not, answered in time; 422 if a text by itself, or all of
                them in one request, never can be.
            ClientDisconnect: the client has gone, and its texts have left the queue.
        """
        lanes, model = self.lanes, entry.model
        expected = lanes.backlog + sum(model.expected(texts[1:])) / lanes.count
        if lanes.waiting and (lanes.waiting + len(texts) > MOST_WAITING or self._is_full(expected)):
            raise self.overloaded()
        now = perf_counter()
        futures = [asyncio.wrap_future(one) for one in model.submit(texts, now + self.limits.seconds)]
        answers = asyncio.gather(*futures)
        answers.add_done_callback(_retrieve_exception)
        try:
            await asyncio.wait((answers,), timeout=SOON)
            if not answers.done():
                await self._wait(request, answers)
            request.state.answered = now, answers.result()
        except TimeoutError as error:
            raise self._late(error, sum(model.expected(texts)) / lanes.count, len(texts)) from None
        finally:
            for future in futures:  # not `answers`, which is done once one of them has failed
                future.cancel()
        for one in answers.result():
            self.metrics.observe(entry.name, one)
        return answers.result()

    def _is_full(self, expected: float) -> bool:
        """Whether the queue holds too many characters, or a text that begins in so many seconds begins too late."""
        return self.lanes.characters >= MOST_CHARACTERS or expected > SHARE * self.limits.seconds

    async def _wait(self, request: Request, answers: asyncio.Future[list[Answered]]) -> None:
        """Wait until all answers are ready, the client has gone, or the time is over.

        Raises:
            TimeoutError, ClientDisconnect
        """
        gone = asyncio.ensure_future(_await_end(request))
        try:
            await asyncio.wait((answers, gone), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if answers.done():
            return
        if gone.done():
            self.metrics.rejected.labels("gone").inc()
            raise ClientDisconnect
        raise TimeoutError

    def _late(self, error: TimeoutError, expected: float, texts: int) -> RefusedError:
        """The refusal of a request that was not answered in time: 503, or 422 if sending it again would not help.

        Args:
            error: what ended it.
            expected: estimated seconds on all cores, now that some of its texts were computed.
            texts: number of its texts.
        """
        most = f"the limit of {self.limits.seconds:g} s"
        if isinstance(error, LateError) and error.seconds > self.limits.seconds:
            return RefusedError(422, f"a text takes longer than {most}; send shorter texts")
        if texts > 1 and expected > self.limits.seconds:
            return RefusedError(422, f"these {texts} texts take about {expected:.1f} s, more than {most}; send fewer")
        self.metrics.rejected.labels("late").inc()
        return RefusedError(503, f"no answer within {self.limits.seconds:g} s; retry later", 1)

    def overloaded(self) -> RefusedError:
        """The 503 for a request that is turned away, which this counts."""
        self.metrics.rejected.labels("full").inc()
        seconds = max(1, math.ceil(self.lanes.backlog))
        return RefusedError(503, f"server overloaded; retry in {seconds} s", seconds)


def _retrieve_exception(answers: asyncio.Future[list[Answered]]) -> None:
    """Retrieve the exception of an abandoned future; asyncio logs it as an error otherwise."""
    if not answers.cancelled():
        answers.exception()


async def _await_end(request: Request) -> None:
    """Return once the client has disconnected: the body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
