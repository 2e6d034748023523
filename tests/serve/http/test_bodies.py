"""Bodies that arrive: how many bytes of them are held at once."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from bertline.serve.http import bodies as arriving
from bertline.serve.http.bodies import AT_ONCE, Bodies
from bertline.serve.http.refusals import RefusedError

MOST = 10


class Sender:
    """A client that sends as many bytes as a body may have, and its end when it is told how it ends."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.send(bytes(MOST))
        self.request = Request({"type": "http", "method": "POST", "headers": []}, self.messages.get)

    def send(self, body: bytes, more_body: bool = True) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more_body})

    def end(self) -> None:
        self.send(b"", more_body=False)

    def go(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    def send_too_much(self) -> None:
        self.send(b"x")


@pytest.mark.parametrize("leave", [Sender.end, Sender.go, Sender.send_too_much])
def test_bodies_have_no_more_room_than_so_many_of_the_largest(
    leave: Callable[[Sender], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "SMALL", 1)

    async def arrive() -> None:
        bodies = Bodies(MOST, lambda: RefusedError(503, "full"))
        senders = [Sender() for _ in range(AT_ONCE)]
        reading = [asyncio.ensure_future(bodies.read(sender.request)) for sender in senders]
        while any(sender.messages.qsize() for sender in senders):
            await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="full"):
            await bodies.read(Sender().request)
        small = Sender()
        small.messages.get_nowait()
        small.send(b"x", more_body=False)
        assert await bodies.read(small.request) == b"x"
        leave(senders[0])
        with suppress(RefusedError, ClientDisconnect):
            await reading[0]
        last = Sender()
        last.end()
        assert await bodies.read(last.request) == bytes(MOST)
        for sender, one in zip(senders[1:], reading[1:], strict=True):
            sender.end()
            assert await one == bytes(MOST)

    asyncio.run(asyncio.wait_for(arrive(), 60))
