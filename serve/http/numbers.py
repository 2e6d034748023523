"""Whole numbers of JSON, which knows no others than numbers: 2.0 is 2, as JSON Schema has it."""

from typing import Any

from pydantic import BeforeValidator


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Annotates an integer, after its bounds, which a JSON Schema would not tell otherwise."""
