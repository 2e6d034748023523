"""Limits on what a request may ask."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from bertline.artifacts.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of one request; a request that exceeds one is refused before it costs much."""

    body_bytes: int = 1 << 20
    """Bytes of the body, as sent and as decompressed."""
    texts: int = 128
    """Texts in a request; a pair counts as one."""
    characters: int = 100_000
    """Characters of each text."""
    seconds: float = 5.0
    """Seconds from the receipt of the whole request to its answer."""

    @classmethod
    def read(cls, settings: list[str]) -> Limits:
        """The default limits, with those replaced that the settings NAME=VALUE name.

        Raises:
            InputError: a name is unknown, or a value is not a positive number.
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
                faults.append(f"--limit {setting}: {value!r} is not a positive {kinds[name].__name__}")
        if faults:
            raise InputError(*faults)
        return cls(**found)
