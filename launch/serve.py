"""`bertline serve`: reads and checks the settings, then runs the server."""

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
    """Serve until told to stop, then end the process.

    Raises:
        InputError: a setting, a bundle or the address is wrong; or an environment variable asks for traces and the
            extra [tracing] is not installed.
        DamagedError: a bundle is damaged.
    """
    _await_loading()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would compute beside those of --threads
    from bertline.serve.http import server, sites, tracing
    from bertline.serve.http.keys import Keys
    from bertline.serve.http.limits import Limits

    limit, key, allowed = Limits.read(list(limits)), Keys.read(keys), sites.read(origins)
    server.run(bundles, host, port, limit, key, threads, allowed, tracing.read(), public_key)
    os._exit(0)  # a SIGHUP may still be loading bundles in a thread, which Python's normal exit would crash


def _await_loading() -> None:
    """Handle signals until the server does.

    Otherwise SIGHUP would kill the process, and SIGTERM would end it with a code other than 0 or, where it is PID 1 of
    a container, not at all.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # no request was accepted yet, and no file is being written
