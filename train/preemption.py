"""Preemption: a scheduler that wants the machine back sends a signal, and the run stops after the current step.

DeepSpeed's launcher sends none if it is killed itself; its ranks notice that it is gone, and stop in the same way.
An evaluation stops after the current batch. Before the first step the signal is checked after every few thousand texts
tokenized and every few hundred texts that a teacher has scored.
"""

import os
import signal


class Flag:
    """An Event without a lock, on which a signal that interrupts the handler of another would wait forever."""

    def __init__(self) -> None:
        self._is_set = False
        self._launcher: int | None = None

    def set(self) -> None:
        """Set the flag."""
        self._is_set = True

    def set_without(self, launcher: int) -> None:
        """Set the flag once the process of this number is no longer the parent of this one."""
        self._launcher = launcher

    def is_set(self) -> bool:
        """Whether the flag is set, or the launcher of this process is gone."""
        return self._is_set or self._launcher not in (None, os.getppid())


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
asked = Flag()
"""Set once this process is to stop. The signal may reach one rank only, so the ranks exchange it in each step;
while rank 0 prepares the data for all, only its flag counts."""


def watch() -> None:
    """From now on, let the signals set the flag instead of killing the process."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: asked.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher blocks SIGTERM


def unwatch() -> None:
    """Let the signals kill the process again: nothing is left to save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
