"""From a request's texts to their answers: admitted if they can be in time, dropped when nobody waits for them."""

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
"""Texts in the queue, however quick the model is: they take memory."""
SOON = 0.02
"""Seconds in which nobody looks whether the client has gone: most answers are there by then, and looking costs."""
SHARE = 0.5
"""Of a request's time, what it may be expected to wait; the rest is for what no forecast knows."""


class Answering:
    """The way to the models."""

    def __init__(self, lanes: Lanes, limits: Limits, metrics: Metrics) -> None:
        self.lanes, self.limits, self.metrics = lanes, limits, metrics

    def refuse_if_full(self) -> None:
        """Raise RefusedError 503 where not even one more text would be answered in time; costs next to nothing."""
        if self.lanes.waiting >= MOST_WAITING or self.lanes.backlog > SHARE * self.limits.seconds:
            raise self.overloaded()

    async def answer(self, request: Request, entry: Entry, texts: Sequence[Text]) -> list[Answered]:
        """The answers to texts, in order.

        Raises:
            RefusedError: 503 where they would not be, or were not, answered in time; 422 where one, or all of them in a
                request, never are.
            ClientDisconnect: the client has gone, and its texts have left the queue.
        """
        lanes, model = self.lanes, entry.model
        expected = lanes.backlog + sum(model.expected(texts[1:])) / lanes.count
        if lanes.waiting and (lanes.waiting + len(texts) > MOST_WAITING or expected > SHARE * self.limits.seconds):
            raise self.overloaded()
        now = perf_counter()
        futures = [asyncio.wrap_future(one) for one in model.submit(texts, now + self.limits.seconds)]
        answers = asyncio.gather(*futures)
        answers.add_done_callback(_hear)
        try:
            await asyncio.wait((answers,), timeout=SOON)
            if not answers.done():
                await self._wait(request, answers)
            request.state.answered = now, answers.result()
        except TimeoutError as error:
            raise self._late(error, sum(model.expected(texts)) / lanes.count, len(texts)) from None
        finally:
            for future in futures:  # of `answers` there is nothing to cancel once one has failed
                future.cancel()
        for one in answers.result():
            self.metrics.observe(entry.name, one)
        return answers.result()

    async def _wait(self, request: Request, answers: asyncio.Future[list[Answered]]) -> None:
        """Until all answers are there, or nobody waits for them.

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
        """What a request hears that was not answered in time: 503, and 422 where to send it again would not help.

        Args:
            error: how that was seen.
            expected: seconds that all cores are likely to take for it, now that some of its texts were computed.
            texts: of it.
        """
        most = f"the {self.limits.seconds:g} s that a request has"
        if isinstance(error, LateError) and error.seconds > self.limits.seconds:
            return RefusedError(422, f"a text takes longer than {most}; send shorter ones")
        if texts > 1 and expected > self.limits.seconds:
            return RefusedError(422, f"these {texts} texts take about {expected:.1f} s, more than {most}; send fewer")
        self.metrics.rejected.labels("late").inc()
        return RefusedError(503, f"no answer within {self.limits.seconds:g} s; try again later", 1)

    def overloaded(self) -> RefusedError:
        """503 for a request that is turned away, and counted."""
        self.metrics.rejected.labels("full").inc()
        seconds = max(1, math.ceil(self.lanes.backlog))
        return RefusedError(503, f"more is asked than can be answered; try again in {seconds} s", seconds)


def _hear(answers: asyncio.Future[list[Answered]]) -> None:
    """Of answers that were given up asyncio would complain in the log, that nobody has heard how they ended."""
    if not answers.cancelled():
        answers.exception()


async def _await_end(request: Request) -> None:
    """Return when the client has: its body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
