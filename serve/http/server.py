"""The process: listen, answer, swap bundles on SIGHUP, end well on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from bertline.artifacts import machine
from bertline.artifacts.errors import BertlineError, InputError
from bertline.serve.http import app, logs
from bertline.serve.http.connections import IDLE_SECONDS, Connection
from bertline.serve.http.keys import Keys
from bertline.serve.http.limits import Limits
from bertline.serve.http.logs import LOGGER
from bertline.serve.http.shelf import Shelf
from bertline.serve.lanes import Lanes

if TYPE_CHECKING:
    from bertline.serve.http.spans import Spans

BACKLOG = 2048
"""Connections that may wait to be accepted."""
UNREAD_BYTES = 1 << 16
"""What the system keeps of answers that a client does not read (Linux: twice as much): left to itself, megabytes for
each."""
GRACE_SECONDS = 30
"""That requests have to end once the server was told to."""


class _Uvicorn(uvicorn.Server):
    """Signals are ours: uvicorn's own handling ends the process by SIGTERM where code 0 is meant."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(
    folders: Sequence[Path],
    host: str,
    port: int,
    limits: Limits,
    keys: Keys,
    threads: int | None = None,
    origins: Sequence[str] = (),
    spans: Spans | None = None,
    public_key: Path | None = None,
) -> None:
    """Answer from bundles until SIGTERM or SIGINT; then take no more, answer what was taken, and return.

    Args:
        folders: of the bundles, the first being that of `POST /`.
        host: to listen on.
        port: to listen on; 0 for any that is free.
        limits: of a request.
        keys: that are asked for.
        threads: cores to compute on; None for all physical ones that this process may use.
        origins: whose pages may ask.
        spans: hear of each request, if any do.
        public_key: whose owner must have signed the bundles.

    Raises:
        InputError: a folder is no bundle, or the address cannot be listened on.
        DamagedError: a bundle is not as it should be.
    """
    logs.set_up()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection that is kept takes one
    with _listen(host, port) as listening:
        lanes = Lanes(threads or machine.cores())
        shelf = Shelf(folders, lanes, limits, public_key)
        _tell(shelf)
        application, routes = app.make(shelf, keys, origins, spans)
        config = uvicorn.Config(
            application, http=Connection, loop="uvloop", lifespan="off", log_config=None, access_log=False,
            server_header=False, ws="none", proxy_headers=False, timeout_keep_alive=IDLE_SECONDS, backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )  # fmt: skip
        uvloop.run(_serve(_Uvicorn(config), routes, listening))
    lanes.close()
    if spans is not None:
        spans.close()
    LOGGER.info("ended")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}); name another --host or --port") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)  # and so all that it accepts
    return listening


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


async def _serve(server: _Uvicorn, routes: app.Routes, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    one_at_a_time = threading.Lock()

    def end() -> None:
        routes.ready = False
        server.should_exit = True

    def swap() -> None:  # in no thread of the loop's own: the end of the server would wait for those
        threading.Thread(target=_swap, args=(routes.shelf, one_at_a_time), daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, swap)
    LOGGER.info("listening", extra={"fields": {"url": _url(*listening.getsockname()[:2])}})
    await server.serve([listening])


def _swap(shelf: Shelf, one_at_a_time: threading.Lock) -> None:
    try:
        with one_at_a_time:
            shelf.reload()
    except BertlineError as error:
        LOGGER.error("not swapped: the bundles that were loaded go on", extra={"fields": {"why": str(error)}})
    except Exception:  # whatever it is, the server goes on
        LOGGER.exception("not swapped: the bundles that were loaded go on")
    else:
        _tell(shelf)


def _tell(shelf: Shelf) -> None:
    for entry in shelf.entries.values():
        fields = {"bundle": entry.name, "version": entry.version}
        if entry.bundle.notice:
            fields["notice"] = entry.bundle.notice
        LOGGER.info("answering", extra={"fields": fields})
