"""How much a request may ask."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from bertline.artifacts.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Of one request; what asks more is refused before it costs much."""

    body_bytes: int = 1 << 20
    """As sent, and as decompressed."""
    texts: int = 128
    """A pair counts as one."""
    characters: int = 100_000
    """Of each text."""
    seconds: float = 5.0
    """From the whole request to the answer."""

    @classmethod
    def read(cls, settings: list[str]) -> Limits:
        """The usual ones but for what NAME=VALUE says.

        Raises:
            InputError: an unknown name, or a value that is no positive number.
        """
        kinds: dict[str, type[int] | type[float]] = {one.name: type(getattr(cls, one.name)) for one in fields(cls)}
        found: dict[str, Any] = {}
        faults = []
        for setting in settings:
            name, _, value = setting.partition("=")
            try:
                found[name] = kinds[name](value)
                if not 0 < found[name] < float("inf"):
                    raise ValueError
            except KeyError:
                faults.append(f"--limit {setting}: no such limit; there are {', '.join(kinds)}")
            except ValueError:
                faults.append(f"--limit {setting}: {value!r} is no positive {kinds[name].__name__}")
        if faults:
            raise InputError(*faults)
        return cls(**found)
