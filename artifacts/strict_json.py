"""JSON that all readers read alike (RFC 8259): no duplicate keys, no NaN, no nesting that is too deep for a reader."""

import json
from typing import Any


class NotJsonError(ValueError):
    """Invalid JSON; the message says what is wrong, and where."""


def loads(content: bytes) -> Any:
    """Parse UTF-8 text.

    Raises:
        NotJsonError: it is not JSON, an object has a duplicate key, values are nested too deeply, or a number has too
            many digits.
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
    except ValueError:  # Python limits the number of digits
        raise NotJsonError("a number that is too long") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate keys: readers differ in which value they take."""
    keys: dict[str, Any] = {}
    for name, value in pairs:
        if name in keys:
            raise NotJsonError(f"key {name!r:.60} occurs twice")
        keys[name] = value
    return keys


def _no_number(name: str) -> None:
    raise NotJsonError(f"{name} is no number")
