"""Around every request: an id, a line in the log, its place among the metrics; a span where traces are asked for."""

from __future__ import annotations

import asyncio
import re
import uuid
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertline.serve.http.logs import LOGGER
from bertline.serve.http.metrics import Metrics

if TYPE_CHECKING:
    from bertline.serve.http.spans import Spans

ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A client's own X-Request-ID that is taken; any other is replaced."""

GONE = 499
"""The client went before it was answered, as nginx counts it."""


class Observing:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans | None) -> None:
        self.app, self.metrics, self.spans = app, metrics, spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if ID.fullmatch(given) else uuid.uuid4().hex
        status = 0  # until an answer has begun

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = identity
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self.app(scope, receive, told)
        except asyncio.CancelledError:  # the grace at shutdown is over
            if not status:
                ending = {"error": "the server is shutting down; retry later"}
                await JSONResponse(ending, 503, {"retry-after": "1"})(scope, receive, told)
            raise
        except Exception:
            LOGGER.exception("the server failed on a request", extra={"fields": {"request": identity}})
            if status:
                status = 500
                raise  # uvicorn ends the connection
            failed = {"error": "the server failed on this request; its log says why"}
            await JSONResponse(failed, 500)(scope, receive, told)
        finally:
            ended = perf_counter()
            status = status or GONE
            self._tell(scope, identity, status, ended - begun)
            if self.spans is not None:
                self.spans.tell(scope, identity, status, begun, ended)
            scope.get("state", {}).pop("answered", None)  # uvicorn keeps the scope until the connection's next request

    def _tell(self, scope: Scope, identity: str, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        route = getattr(scope.get("route"), "path", "none")  # a path that no route is for is anyone's to invent
        state = scope.get("state", {})
        bundle = state.get("bundle", "")  # once it is known to be on the shelf: a name may be invented as well
        self.metrics.requests.labels(bundle, route, method, status).inc()
        self.metrics.seconds.labels(bundle, route).observe(seconds)
        texts = state.get("texts")
        fields = {"request": identity, "method": method, "route": route, "bundle": bundle, "status": status}
        fields |= {"ms": round(seconds * 1000, 2)} | ({} if texts is None else {"texts": texts})
        LOGGER.info("request", extra={"fields": fields})
