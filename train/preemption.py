"""A scheduler that wants the machine back says so by a signal: it is noted, and acted on after the step being taken.

An evaluation is given up after the batch being computed. Before the first step it is looked for after every few
thousand texts that are tokenized, and every few hundred that a teacher has answered.
"""

import signal


class Flag:
    """An Event without its lock: a signal that comes while the handler of another holds it would wait for ever."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """From now on it is set."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether it is."""
        return self._is_set


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
asked = Flag()
"""Set once this process was asked to stop. The ranks agree on it in each step, for a signal may reach one alone; while
rank 0 reads the data for all, it alone is listened to."""


def watch() -> None:
    """Note the signals from now on, instead of dying of them."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: asked.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher does not take them


def unwatch() -> None:
    """Die of them again: nothing is left to be saved."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
