"""Dotted keys of nested mappings, for example training.freeze.layers."""

from collections.abc import Collection, Iterator
from typing import Any

from bertline.artifacts.errors import InputError


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key, creating missing sections.

    Raises:
        InputError: a part of the key is a value.
    """
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise InputError(f"{parent} is a value, it has no keys of its own")
    section[last] = value


def without(raw: dict[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A copy without some keys and everything below them; the key of an item removes the whole list."""
    lists = [f"{prefix}{name}" for name, value in raw.items() if isinstance(value, list)]
    keys = {*keys, *(name for name in lists if any(key.startswith(f"{name}.") for key in keys))}
    return {
        name: without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in raw.items()
        if f"{prefix}{name}" not in keys
    }


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key and its value; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
