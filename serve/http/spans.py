"""Records a request as a span with its stages as child spans, by OpenTelemetry's semantic conventions for HTTP servers.

A background thread sends them in batches to a receiver of OTLP over HTTP; the standard variables set its address, the
sampling and the service name. A trace that the caller began is continued. Spans are made when a request has ended:
until then, tracing costs nothing. No span holds a text, nor anything that may be one: bodies, query strings, unknown
paths, messages of exceptions.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter, time_ns
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    service_attributes,
    url_attributes,
    user_agent_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import Scope

from bertline import __version__
from bertline.serve.lanes import STAGES, Answered

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""Methods that the conventions list."""


class Spans:
    """Records requests as spans."""

    def __init__(self) -> None:
        """Start the thread that sends spans.

        Raises:
            ValueError: a standard variable has an unsupported value.
        """
        ours = {service_attributes.SERVICE_NAME: "bertline", service_attributes.SERVICE_VERSION: __version__}
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())  # variables override our name
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("bertline", __version__)

    def tell(self, scope: Scope, identity: str, status: int, begun: float, ended: float) -> None:
        """Make the spans of a request that has ended.

        Args:
            scope: ASGI scope of the request, after routing.
            identity: id of the request.
            status: HTTP status of the answer.
            begun: start, in seconds on the clock of `time.perf_counter`, like all times here.
            ended: end, likewise.
        """
        clock = time_ns() - round(perf_counter() * 1e9)
        state = scope.get("state", {})
        span = self._tracer.start_span(
            _name(scope), propagate.extract(Headers(scope=scope)), SpanKind.SERVER,
            _attributes(scope, status) | {f"{http_attributes.HTTP_RESPONSE_HEADER_TEMPLATE}.x-request-id": [identity]},
            start_time=clock + round(begun * 1e9),
        )  # fmt: skip
        within = trace.set_span_in_context(span)
        for stage, since, until in _stages(*state.get("answered", (0.0, []))):
            child = self._tracer.start_span(stage, within, start_time=clock + round(since * 1e9))
            child.end(clock + round(until * 1e9))
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(clock + round(ended * 1e9))

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def _stages(submitted: float, answered: Sequence[Answered]) -> Iterator[tuple[str, float, float]]:
    """Name, start and end of each stage: from the first text of a request that enters it to the last that leaves it."""
    since = [submitted] * len(answered)
    for stage in STAGES if answered else ():
        until = [begun + getattr(one, stage) for begun, one in zip(since, answered, strict=True)]
        yield stage, min(since), max(until)
        since = until


def _name(scope: Scope) -> str:
    method = scope["method"] if scope["method"] in METHODS else "HTTP"
    route = getattr(scope.get("route"), "path", "")
    return f"{method} {route}".strip()


def _attributes(scope: Scope, status: int) -> dict[str, Any]:
    """Attributes that the conventions define for a request, and its bundle and number of texts."""
    method, headers = scope["method"], Headers(scope=scope)
    route, state = getattr(scope.get("route"), "path", None), scope.get("state", {})
    known = "bundle" in state or scope["path"] == route
    client, server = scope.get("client") or (None,), scope.get("server") or (None, None)
    found = {
        http_attributes.HTTP_REQUEST_METHOD: method if method in METHODS else "_OTHER",
        http_attributes.HTTP_REQUEST_METHOD_ORIGINAL: None if method in METHODS else method,
        http_attributes.HTTP_RESPONSE_STATUS_CODE: status,
        http_attributes.HTTP_ROUTE: route,
        url_attributes.URL_PATH: scope["path"] if known else "REDACTED",
        url_attributes.URL_SCHEME: scope["scheme"],
        error_attributes.ERROR_TYPE: str(status) if status >= 500 else None,
        network_attributes.NETWORK_PROTOCOL_VERSION: scope["http_version"],
        server_attributes.SERVER_ADDRESS: server[0],
        server_attributes.SERVER_PORT: server[1],
        client_attributes.CLIENT_ADDRESS: client[0],
        user_agent_attributes.USER_AGENT_ORIGINAL: headers.get("user-agent"),
        "bertline.bundle": state.get("bundle"),
        "bertline.texts": state.get("texts"),
    }
    return {name: value for name, value in found.items() if value is not None}
