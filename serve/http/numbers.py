"""Integers in JSON, which has only one type of number: 2.0 is the integer 2, as JSON Schema defines it."""

from typing import Any

from pydantic import BeforeValidator


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Annotation of an integer; must follow its bounds, which the JSON Schema would lack otherwise."""
