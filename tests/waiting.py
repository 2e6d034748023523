"""What a test waits for, but not for ever."""

from collections.abc import Callable
from time import monotonic, sleep


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once a condition holds; one that does not in so many seconds fails the test."""
    until = monotonic() + seconds
    while not condition():
        assert monotonic() < until, f"not within {seconds:g} s"
        sleep(0.05)
