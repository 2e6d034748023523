"""`bertline serve`: what the server needs is read and checked, then it runs."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path


def serve(
    bundles: Sequence[Path],
    host: str,
    port: int,
    threads: int | None,
    keys: Path | None,
    origins: Sequence[str],
    limits: Sequence[str],
    public_key: Path | None,
) -> None:
    """Serve until told to end, which ends the process.

    Raises:
        InputError: the extra [tracing] is not installed, and a variable asks for traces; or a setting, a bundle or the
            address is wrong.
        DamagedError: a bundle is not as it should be.
    """
    _await_loading()
    from bertline.serve.http import server, sites, tracing
    from bertline.serve.http.keys import Keys
    from bertline.serve.http.limits import Limits

    limit, key, allowed = Limits.read(list(limits)), Keys.read(keys), sites.read(origins)
    server.run(bundles, host, port, limit, key, threads, allowed, tracing.read(), public_key)
    os._exit(0)  # bundles may still be loading, for a SIGHUP: Python's own end would crash the thread that does that


def _await_loading() -> None:
    """Hear the signals that the server will: before it does, SIGHUP would end the process as a crash does, SIGTERM with
    another code than 0, and as PID 1, of a container, not at all.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # no request has been taken, no file is being written
