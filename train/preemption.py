"""A scheduler that wants the machine back says so by a signal: it is noted, and acted on after the step being taken.

Before the first step it is acted on between some thousand texts and the next.
"""

import signal
from threading import Event

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
asked = Event()
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
