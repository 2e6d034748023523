"""JSON that all readers take alike (RFC 8259): no key twice in an object, no NaN, no depth that ends a reader."""

import json
from typing import Any


class NotJsonError(ValueError):
    """The sentence says what is wrong, and where."""


def loads(content: bytes) -> Any:
    """The value that UTF-8 text stands for.

    Raises:
        NotJsonError: it is not JSON, a key stands twice in an object, or values are nested too deeply or have too many
            digits to be meant.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except NotJsonError:
        raise
    except UnicodeDecodeError as error:
        raise NotJsonError(f"not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"{error.msg}, at character {error.pos}") from None
    except RecursionError:
        raise NotJsonError("nested too deeply") from None
    except ValueError:  # Python reads no more digits than it was told to
        raise NotJsonError("a number that is too long") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless a key stands twice in it: readers differ in which they take."""
    keys: dict[str, Any] = {}
    for name, value in pairs:
        if name in keys:
            raise NotJsonError(f"key {name!r:.60} stands twice")
        keys[name] = value
    return keys


def _no_number(name: str) -> None:
    raise NotJsonError(f"{name} is no number")
