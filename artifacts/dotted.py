"""Dotted keys, training.freeze.layers for example, of nested mappings."""

from collections.abc import Collection, Iterator
from typing import Any

from bertline.artifacts.errors import InputError


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Give a key a value; sections that are not there are made.

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
    """The same without some keys, each with all that it holds."""
    return {
        name: without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in raw.items()
        if f"{prefix}{name}" not in keys
    }


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key with what it holds; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
