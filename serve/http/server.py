"""The server process: listens, answers, reloads bundles on SIGHUP, and shuts down gracefully on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import math
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
from bertline.serve.http.connections import SECONDS as ARRIVAL_SECONDS
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
"""Send buffer of a connection, in bytes (Linux doubles it): by default, the system would keep megabytes of answers that
a client does not read."""
GRACE_SECONDS = 30
"""Least seconds that accepted requests have to finish at shutdown."""


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: uvicorn's own handling lets SIGTERM end the process, whose exit code is to be 0."""

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
    """Serve bundles until SIGTERM or SIGINT; then accept no more requests, answer the accepted ones, and return.

    Args:
        folders: folders of the bundles; the first one answers `POST /`.
        host: host to listen on.
        port: port to listen on; 0 for any free one.
        limits: limits of a request.
        keys: API keys, one of which a request must show.
        threads: cores to compute on; None for all physical cores that this process may use.
        origins: other sites whose pages may read answers.
        spans: records each request, if traces are asked for.
        public_key: key with which every bundle must be signed.

    Raises:
        InputError: a folder is not a bundle, or the server cannot listen on the address.
        DamagedError: a bundle is damaged, or answers differently on this CPU.
    """
    logs.set_up()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every open connection takes one
    with _bind(host, port) as listening:
        lanes = Lanes(threads or machine.cores())
        shelf = Shelf(folders, lanes, limits, public_key)
        _log_bundles(shelf)
        application, routes = app.make(shelf, keys, origins, spans)
        with _refusing(host, port):
            listening.listen(BACKLOG)  # not before: whoever balances load would count on a server that is still loading
        config = uvicorn.Config(
            application, http=Connection, loop="uvloop", lifespan="off", log_config=None, access_log=False,
            server_header=False, ws="none", proxy_headers=False, timeout_keep_alive=IDLE_SECONDS, backlog=BACKLOG,
            timeout_graceful_shutdown=_grace(limits),
        )  # fmt: skip
        uvloop.run(_serve(_Uvicorn(config), routes, listening))
    lanes.close()
    if spans is not None:
        spans.close()
    LOGGER.info("ended")


def _grace(limits: Limits) -> int:
    """Seconds that accepted requests have to finish at shutdown: as many as one may take to arrive and be answered."""
    return max(GRACE_SECONDS, math.ceil(ARRIVAL_SECONDS + limits.seconds))


def _bind(host: str, port: int) -> socket.socket:
    """A socket with this address, which does not listen yet."""
    with _refusing(host, port):
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((host, port))
        except BaseException:
            bound.close()
            raise
    return bound


@contextlib.contextmanager
def _refusing(host: str, port: int) -> Iterator[None]:
    """Raise InputError where the server cannot have this address."""
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}); name another --host or --port") from None


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


async def _serve(server: _Uvicorn, routes: app.Routes, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    asked = threading.Event()

    def end() -> None:
        routes.ready = False
        server.should_exit = True

    # not in the loop's executor, whose threads a shutdown would wait for
    threading.Thread(target=_swap_when_asked, args=(routes.shelf, asked), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    LOGGER.info("listening", extra={"fields": {"url": _url(*listening.getsockname()[:2])}})
    await server.serve([listening])


def _swap_when_asked(shelf: Shelf, asked: threading.Event) -> None:
    """Swap bundles whenever that is asked; however often it is asked meanwhile, once more is enough."""
    while asked.wait():
        asked.clear()
        _swap(shelf)


def _swap(shelf: Shelf) -> None:
    try:
        shelf.reload()
    except BertlineError as error:
        LOGGER.error("reload failed: the loaded bundles stay in service", extra={"fields": {"why": str(error)}})
    except Exception:  # no failure of a reload may end the server
        LOGGER.exception("reload failed: the loaded bundles stay in service")
    else:
        _log_bundles(shelf)


def _log_bundles(shelf: Shelf) -> None:
    for entry in shelf.entries.values():
        fields = {"bundle": entry.name, "version": entry.version}
        if entry.bundle.notice:
            fields["notice"] = entry.bundle.notice
        LOGGER.info("answering", extra={"fields": fields})
