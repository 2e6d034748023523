"""From a request's texts to their answers: what nobody waits for any more is not computed."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from bertline.serve.http import answering
from bertline.serve.http.answering import Answering
from bertline.serve.http.limits import Limits
from bertline.serve.http.metrics import Metrics
from bertline.serve.http.refusals import RefusedError
from bertline.serve.lanes import Answered, Answerer, Computed, Lanes, LateError, Left
from bertline.tasks.tokens import Text


async def ask(
    lanes: Lanes, compute: Callable[[Sequence[Text], bool, Left], Computed], texts: Sequence[str], seconds: float = 0.0
) -> None:
    """Ask a model that expects each text to take so many seconds."""

    def submit(texts: Sequence[Text], deadline: float) -> list[Future[Answered]]:
        return lanes.submit(texts, Answerer(compute), deadline)

    model = SimpleNamespace(expected=lambda texts: [seconds] * len(texts), submit=submit)
    entry: Any = SimpleNamespace(name="model", model=model)
    await way(lanes).answer(Request({"type": "http"}), entry, [(text, None) for text in texts])


def way(lanes: Lanes) -> Answering:
    """The way to models that none of these tests has."""
    shelf: Any = SimpleNamespace(lanes=lanes, entries={})
    return Answering(lanes, Limits(seconds=500), Metrics(shelf))


def test_once_a_text_has_failed_the_others_of_its_request_leave_the_queue() -> None:
    asked: list[str] = []
    told = threading.Event()

    def compute(texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        asked.extend(text for text, _ in texts)
        if texts[0][0] == "fails":
            raise ValueError("no")
        assert told.wait(10)
        return Computed([{}], 0.0, 0.0)

    lanes = Lanes(1)
    with pytest.raises(ValueError, match="no"):
        asyncio.run(ask(lanes, compute, ["fails", "under way", "waits"]))
    told.set()
    lanes.close()
    assert "waits" not in asked


@pytest.mark.parametrize(
    ("texts", "expected", "takes", "status", "words"),
    [
        (1, 0, 0, 503, "no answer within 500 s; retry later"),
        (1, 9000, 500, 503, "no answer within 500 s; retry later"),
        (1, 0, 501, 422, "a text takes longer than the limit of 500 s; send shorter texts"),
        (9, 0, 501, 422, "a text takes longer than the limit of 500 s; send shorter texts"),
        (10, 100, 0, 503, "no answer within 500 s; retry later"),  # there are two lanes
        (11, 100, 0, 422, "these 11 texts take about 550.0 s, more than the limit of 500 s; send fewer"),
    ],
)
def test_what_is_never_answered_in_time_is_not_to_be_sent_again(
    texts: int, expected: float, takes: float, status: int, words: str
) -> None:
    def compute(texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        raise LateError(takes)

    lanes = Lanes(2)
    with pytest.raises(RefusedError) as raised:
        asyncio.run(ask(lanes, compute, ["long"] * texts, expected))
    lanes.close()
    assert (raised.value.status, raised.value.sentence) == (status, words)


def test_however_quick_a_model_is_no_more_texts_wait_than_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of a request nor, once they wait, a request more; nor texts of as many characters."""
    monkeypatch.setattr(answering, "MOST_WAITING", 3)
    begun, told = threading.Event(), threading.Event()

    def compute(texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        begun.set()
        assert told.wait(60)
        return Computed([{}], 0.0, 0.0)

    lanes = Lanes(1)
    lanes.submit([("under way", None)], Answerer(compute))
    assert begun.wait(60)
    for waiting in (1, 2):
        lanes.submit([("waits", None)], Answerer(compute))
        with pytest.raises(RefusedError, match="server overloaded; retry in"):
            asyncio.run(ask(lanes, compute, ["more"] * (4 - waiting)))
        way(lanes).refuse_if_full()
    with monkeypatch.context() as patch:
        patch.setattr(answering, "MOST_CHARACTERS", len("waits" * 2))
        with pytest.raises(RefusedError, match="server overloaded; retry in"):
            asyncio.run(ask(lanes, compute, ["more"]))
    lanes.submit([("waits", None)], Answerer(compute))
    with pytest.raises(RefusedError, match="server overloaded; retry in"):
        way(lanes).refuse_if_full()
    told.set()
    lanes.close()


@pytest.mark.parametrize(("backlog", "expected"), [(150, KeyError), (151, RefusedError)])
def test_a_request_may_wait_for_half_of_its_time(backlog: float, expected: type[Exception]) -> None:
    """Of 500 seconds; it takes 200 after the first of its texts, of 100 each, on two lanes 100."""

    def admitted(*_: Any) -> None:
        raise KeyError

    lanes: Any = SimpleNamespace(waiting=1, characters=1, backlog=backlog, count=2)
    model = SimpleNamespace(expected=lambda texts: [100.0] * len(texts), submit=admitted)
    entry: Any = SimpleNamespace(name="model", model=model)
    with pytest.raises(expected):
        asyncio.run(way(lanes).answer(Request({"type": "http"}), entry, [("a", None)] * 3))


def test_a_queue_that_takes_more_than_half_of_the_time_is_full() -> None:
    lanes: Any = SimpleNamespace(waiting=1, characters=1, backlog=250, count=2)
    way(lanes).refuse_if_full()
    lanes.backlog = 251
    with pytest.raises(RefusedError):
        way(lanes).refuse_if_full()
