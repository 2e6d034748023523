"""ClassLabels of `datasets`: integers that the metadata of an Arrow schema has names for."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Spell = Callable[[str, Sequence[str]], bool]
"""Whether the integers of a column are replaced by the names that the file has for 0, 1, …"""


def class_names(schema: Any, spell: Spell) -> dict[str, list[str]]:
    """Names of 0, 1, … by column of an Arrow schema, for columns (or lists) of ClassLabels that `spell` chooses.

    Metadata that `datasets` would not write is ignored: the columns can be read without it.
    """
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    match told:
        case {"info": {"features": dict(features)}}:
            found = {name: _names(feature) for name, feature in features.items() if name in schema.names}
            return {name: names for name, names in found.items() if names and spell(name, names)}
    return {}


def spelled(row: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with integers replaced by the names in `classes`; -1, which means no label, becomes None."""
    return row | {column: _spelled(row[column], names) for column, names in classes.items()}


def _names(feature: Any) -> list[str]:
    match feature:
        case [inner] | {"feature": inner}:  # a list, as written by datasets before and since 4.0
            return _names(inner)
        case {"_type": "ClassLabel", "names": [*names]} if all(isinstance(name, str) for name in names):
            return names
    return []


def _spelled(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_spelled(each, names) for each in value]
    if not isinstance(value, int):  # None, or already a name
        return value
    return names[value] if 0 <= value < len(names) else None
