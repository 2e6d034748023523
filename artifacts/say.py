"""How work that takes a while tells a person of it."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes a line of progress for a person."""
