"""How long-running work reports its progress."""

from collections.abc import Callable

Say = Callable[[str], None]
"""A function that takes a line of progress for the user."""
