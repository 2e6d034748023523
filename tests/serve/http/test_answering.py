"""From a request's texts to their answers: what nobody waits for any more is not computed."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from bertline.serve.http.answering import Answering
from bertline.serve.http.limits import Limits
from bertline.serve.lanes import Answered, Answerer, Computed, Lanes
from bertline.tasks.tokens import Text


def test_once_a_text_has_failed_the_others_of_its_request_leave_the_queue() -> None:
    asked: list[str] = []
    told = threading.Event()

    def compute(texts: Sequence[Text], alone: bool) -> Computed:
        asked.extend(text for text, _ in texts)
        if texts[0][0] == "fails":
            raise ValueError("no")
        assert told.wait(10)
        return Computed([{}], 0.0, 0.0)

    def submit(texts: Sequence[Text], deadline: float) -> list[Future[Answered]]:
        return lanes.submit(texts, Answerer(compute), deadline)

    async def ask() -> None:
        model = SimpleNamespace(expected=lambda texts: [0.0] * len(texts), submit=submit)
        entry: Any = SimpleNamespace(name="model", model=model)
        metrics: Any = None  # nothing is counted
        await Answering(lanes, Limits(), metrics).answer(
            Request({"type": "http"}), entry, [(text, None) for text in ("fails", "under way", "waits")]
        )

    lanes = Lanes(1)
    with pytest.raises(ValueError, match="no"):
        asyncio.run(ask())
    told.set()
    lanes.close()
    assert "waits" not in asked
