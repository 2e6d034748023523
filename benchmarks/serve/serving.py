"""`bertline serve` in a separate process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import psutil

STARTING_SECONDS = 300
"""That a server may take until it listens, however large its bundles."""


@dataclass(frozen=True)
class Serving:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> int:
        """Stop it; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def log_lines(self) -> list[dict[str, Any]]:
        """Its whole log."""
        written, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in written.splitlines()]

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines with a given message."""
        return [line for line in self.log_lines() if line["message"] == message]

    def rss_bytes(self) -> int:
        """Its resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        """The CPU time that its threads have used so far, in seconds."""
        spent = psutil.Process(self.process.pid).cpu_times()
        return float(spent.user + spent.system)


@contextmanager
def serving(*arguments: object, script: Path | None = None) -> Iterator[Serving]:
    """A server on a free port; killed at the end if it is still running.

    Args:
        arguments: arguments of `bertline serve`.
        script: Python script to run instead of the `bertline` command.
    """
    program = [str(Path(sys.executable).with_name("bertline"))] if script is None else [sys.executable, str(script)]
    command = [*program, "serve", *map(str, arguments), "--port", "0"]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stderr=stream)
        try:
            yield Serving(_url(process, log), process, log)
        finally:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    until = monotonic() + STARTING_SECONDS
    while process.poll() is None and monotonic() < until:
        for line in log.read_text().splitlines():
            if line.endswith("}") and (entry := json.loads(line))["message"] == "listening":
                return str(entry["url"])
        sleep(0.02)
    raise AssertionError(log.read_text())
