"""Reads OpenTelemetry's standard environment variables; its SDK is imported only if they ask for traces."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bertline.artifacts.errors import InputError, install_advice

if TYPE_CHECKING:
    from bertline.serve.http.spans import Spans

EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first that is set wins."""


def read() -> Spans | None:
    """What records requests as spans, or None if no variable asks for traces.

    Raises:
        InputError: the extra [tracing] is not installed, or a variable has an unsupported value.
    """
    asking = _asking()
    if asking is None:
        return None
    try:
        from bertline.serve.http.spans import Spans

        return Spans()
    except ModuleNotFoundError as error:
        advice = f"unset the variable, or {install_advice('tracing')}"
        raise InputError(f"{asking} asks for traces, but {error.name} is not installed; {advice}") from None
    except ValueError as error:
        raise InputError(f"{asking} asks for traces, but another OTEL_ variable is invalid: {error}") from None


def _asking() -> str | None:
    """Name of the variable that asks for traces; None if traces are not asked for."""
    exporter, endpoint, protocol = _first(EXPORTER), _first(*ENDPOINTS), _first(*PROTOCOLS)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not (exporter or endpoint) or (exporter and exporter[1] == "none"):
        return None
    if exporter and exporter[1] != "otlp":
        raise InputError(f"{exporter[0]}={exporter[1]}: only otlp and none are supported")
    if protocol and protocol[1] != "http/protobuf":
        raise InputError(f"{protocol[0]}={protocol[1]}: only http/protobuf is supported; most receivers take it")
    if endpoint and not _is_url(endpoint[1]):
        raise InputError(f"{endpoint[0]}={endpoint[1]}: not the URL of a receiver, such as http://localhost:4318")
    return (exporter or endpoint or ("",))[0]


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _first(*names: str) -> tuple[str, str] | None:
    """Name and value of the first variable that is set; an empty one counts as unset, as the specification says."""
    return next(((name, os.environ[name].strip()) for name in names if os.environ.get(name, "").strip()), None)
