"""Progress of a bulk prediction on stderr: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bertline.serve.bulk import Seen

OFTEN = 0.2
"""Seconds between two updates of the bar."""
SELDOM = 30.0
"""Seconds between two lines where stderr is not a terminal."""


class BulkProgress:
    """The lines and the bar of one prediction; a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.fields[note]}"), BarColumn(bar_width=None), TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
        )  # fmt: skip
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task: TaskID | None = None
        self._first: Seen | None = None
        self._began = self._told = monotonic()

    def say(self, words: str) -> None:
        """Print a line above the bar."""
        self._console.print(words, markup=False, soft_wrap=True)

    def see(self, seen: Seen) -> None:
        """Show the progress, unless that was done a moment ago; the first call starts the clock."""
        now = monotonic()
        if self._first is None:
            self._first, self._began = seen, now
            if self._console.is_terminal:
                self._task = self._bars.add_task("", total=seen.total, completed=seen.done, note="")
        if now - self._told < (SELDOM if self._task is None else OFTEN):
            return
        self._told = now
        rate = (seen.rows - self._first.rows) / max(now - self._began, 1e-9)
        note = f"{seen.rows:,} rows  {rate:,.0f} rows/s"
        if self._task is None:
            self.say(f"{note}  {seen.done / max(seen.total, 1):.0%}  {self._left(seen, now)}")
        else:
            self._bars.update(self._task, completed=seen.done, note=note)

    def __enter__(self) -> BulkProgress:
        self._bars.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._bars.stop()

    def _left(self, seen: Seen, now: float) -> str:
        """The time left at the pace so far."""
        assert self._first is not None
        done = seen.done - self._first.done
        if done <= 0:
            return "time left unknown"
        left = timedelta(seconds=round((now - self._began) / done * (seen.total - seen.done)))
        return f"{left} left"
