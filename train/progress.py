"""Progress of a run on stderr: a live bar on a terminal, else a plain line every few steps. Only rank 0 prints."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

T = TypeVar("T")


class Progress:
    """The messages and progress bars of one run."""

    def __init__(self, speaks: bool) -> None:
        self._console = Console(stderr=True, quiet=not speaks, highlight=False)
        self._live = speaks and self._console.is_terminal
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )  # fmt: skip
        self._bars = Bars(*columns, console=self._console, disable=not self._live)
        self._task: TaskID | None = None
        self._total = self._first = 0
        self._started = 0.0

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def training(self, done: int, total: int) -> Iterator[None]:
        """Show a bar of optimizer steps, from `done` to `total`, while the block runs."""
        self._first, self._total, self._started = done, total, time.monotonic()
        with self._bars:
            self._task = self._bars.add_task("training", completed=done, total=total, note="")
            yield
        self._task = None

    def step(self, step: int, loss: float, tokens_per_second: float, log: bool) -> None:
        """Show a step in the bar or, without a terminal and if `log` is set, on a line of its own."""
        note = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s"
        if self._live and self._task is not None:
            self._bars.update(self._task, completed=step, note=note)
        elif log:
            left = (time.monotonic() - self._started) / (step - self._first) * (self._total - step)
            self.say(f"step {step}/{self._total}  {note}  {timedelta(seconds=round(left))} left")

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Iterate over `items` with a bar of their own."""
        with self._bars if self._task is None else nullcontext():
            task = self._bars.add_task(what, total=total, note="")
            for item in items:
                yield item
                self._bars.advance(task)
            self._bars.remove_task(task)
