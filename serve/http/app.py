"""The routes of the server, and the middleware before them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bertline import __version__
from bertline.serve.http import bodies, open_inference, openapi
from bertline.serve.http.answering import Answering
from bertline.serve.http.bodies import Bodies
from bertline.serve.http.connections import BROKEN_OFF
from bertline.serve.http.keys import Keys
from bertline.serve.http.metrics import Metrics
from bertline.serve.http.observing import GONE, Observing
from bertline.serve.http.refusals import RefusedError
from bertline.serve.http.shelf import Entry, Shelf
from bertline.serve.lanes import STAGES, Answered
from bertline.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from bertline.serve.http.spans import Spans

HTML = {"/": "index.html", "/docs": "docs.html"}
FILES = ("page.css", "page.js", "docs.js", "answers.js", "asking.js", "bundle.js", "examples.js", "samples.js")
"""Files of the web pages, served at /page/NAME."""
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # fmt: skip # noqa: E501


EXPOSED = ("inference-header-content-length", "retry-after", "server-timing", "x-bundle-version", "x-request-id")
"""Headers of an answer that another site's scripts may read."""
ASKING = (
    "authorization", "content-type", "inference-header-content-length", "traceparent", "tracestate", "x-request-id",
)  # fmt: skip
"""Headers of a request that they may set."""


class Routes:
    """The handlers of all paths, and what they share."""

    def __init__(self, shelf: Shelf, keys: Keys) -> None:
        self.shelf, self.limits, self.keys = shelf, shelf.limits, keys
        self.metrics = Metrics(shelf)
        self.answering = Answering(shelf.lanes, shelf.limits, self.metrics)
        self.bodies = Bodies(shelf.limits.body_bytes, self.answering.overloaded)
        self.ready = True
        self._documents: dict[tuple[str, ...], bytes] = {}
        """The OpenAPI document as it is sent, by the versions of the bundles; empty until first requested."""

    # Hugging Face

    async def infer(self, request: Request) -> Response:
        """POST / and /models/{name}."""
        self._authorize(request)
        entry = self._entry(request)
        self.answering.refuse_if_full()
        _demand_json(request)
        body = bodies.parsed(await self.bodies.read(request))
        texts, asked = entry.format.read(body)
        request.state.texts = len(texts)
        answered = await self.answering.answer(request, entry, texts)
        written = entry.format.write([one.answer for one in answered], asked)
        return JSONResponse(written, headers=_headers(entry, answered))

    async def root(self, request: Request) -> Response:
        """GET / is the page, and POST / asks the first bundle."""
        return await (self.infer(request) if request.method == "POST" else self.page(request))

    async def models(self, request: Request) -> Response:
        """GET /models: the bundles, and what was measured of each."""
        self._authorize(request)
        return JSONResponse([_describe(entry) for entry in self.shelf.entries.values()])

    # Open Inference Protocol

    async def about(self, request: Request) -> Response:
        """GET /v2."""
        self._authorize(request)
        return JSONResponse({"name": "bertline", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live."""
        return JSONResponse({"live": True})

    async def is_ready(self, request: Request) -> Response:
        """GET /v2/health/ready: 503 once the server is shutting down."""
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def model(self, request: Request) -> Response:
        """GET /v2/models/{name}."""
        self._authorize(request)
        entry = self._entry(request)
        return JSONResponse(open_inference.metadata(entry.name, entry.version, entry.manifest))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/{name}/ready."""
        self._authorize(request)
        return JSONResponse({"name": self._entry(request).name, "ready": True})

    async def v2_infer(self, request: Request) -> Response:
        """POST /v2/models/{name}/infer."""
        self._authorize(request)
        entry = self._entry(request)
        self.answering.refuse_if_full()
        content = await self.bodies.read(request)
        json_bytes = request.headers.get(open_inference.HEADER)
        texts, asked = open_inference.read(content, json_bytes, entry.manifest, self.limits)
        request.state.texts = len(texts)
        open_inference.demand_outputs(asked, entry.manifest)
        answered = await self.answering.answer(request, entry, texts)
        answers = [one.answer for one in answered]
        body, size = open_inference.write(entry.name, entry.version, answers, entry.manifest, asked)
        headers = _headers(entry, answered)
        if size is None:
            return Response(body, media_type="application/json", headers=headers)
        headers[open_inference.HEADER] = str(size)
        return Response(body, media_type="application/octet-stream", headers=headers)

    # monitoring, documentation and pages

    async def exposition(self, request: Request) -> Response:
        """GET /metrics."""
        self._authorize(request)
        content = await asyncio.to_thread(self.metrics.exposition)
        return Response(content, media_type="text/plain; version=0.0.4")

    async def document(self, request: Request) -> Response:
        """GET /openapi.json."""
        self._authorize(request)
        versions = tuple(entry.version for entry in self.shelf.entries.values())
        if versions not in self._documents:
            document = openapi.document(self.shelf, secured=self.keys.demanded)
            self._documents = {versions: bytes(JSONResponse(document).body)}
        return Response(self._documents[versions], media_type="application/json")

    async def page(self, request: Request) -> Response:
        """GET /, /docs and their files. They hold nothing about the bundles, so they require no key."""
        path: str = request.scope["path"]
        name = HTML.get(path, path.rpartition("/")[2])
        content = (resources.files("bertline.serve.http") / "page" / name).read_bytes()
        kind = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}[Path(name).suffix]
        return Response(content, media_type=kind, headers={"content-security-policy": POLICY})

    def _authorize(self, request: Request) -> None:
        if not self.keys.admit(request.headers.get("authorization", "")):
            raise RefusedError(401, "API key required: send the header Authorization: Bearer KEY")

    def _entry(self, request: Request) -> Entry:
        name = request.path_params.get("name", self.shelf.first.name)
        if name not in self.shelf.entries:
            raise RefusedError(404, f"no model {name!r:.80}; this server has {', '.join(self.shelf.entries)}")
        entry = self.shelf.entries[name]
        version = request.path_params.get("version", entry.version)
        if version != entry.version:
            raise RefusedError(404, f"no version {version!r:.80} of {name}; this server has {entry.version}")
        request.state.bundle = name  # traces may show the path: it is a known one
        return entry


def make(shelf: Shelf, keys: Keys, origins: Sequence[str] = (), spans: Spans | None = None) -> tuple[Starlette, Routes]:
    """The ASGI application, and its routes.

    Args:
        shelf: bundles that answer.
        keys: API keys, one of which a request must show.
        origins: other sites whose scripts may read answers; none by default.
        spans: records each request, if traces are asked for.
    """
    routes = Routes(shelf, keys)
    middleware = [Middleware(Observing, metrics=routes.metrics, spans=spans)]
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=ASKING,
                expose_headers=EXPOSED,
            )
        )
    app = Starlette(
        routes=_paths(routes),
        middleware=middleware,
        exception_handlers={RefusedError: _refused, HTTPException: _unrouted, ClientDisconnect: _unheard},
    )
    app.router.redirect_slashes = False  # redirects follow the client's Host header, before a key is checked
    return app, routes


def _paths(routes: Routes) -> list[Route]:
    return [
        Route("/", routes.root, methods=["GET", "POST"]),
        Route("/models/{name}", routes.infer, methods=["POST"]),
        Route("/models", routes.models, methods=["GET"]),
        Route("/v2", routes.about, methods=["GET"]),
        Route("/v2/health/live", routes.live, methods=["GET"]),
        Route("/v2/health/ready", routes.is_ready, methods=["GET"]),
        *(
            route
            for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
            for route in (
                Route(model, routes.model, methods=["GET"]),
                Route(f"{model}/ready", routes.model_ready, methods=["GET"]),
                Route(f"{model}/infer", routes.v2_infer, methods=["POST"]),
            )
        ),
        Route("/metrics", routes.exposition, methods=["GET"]),
        Route("/openapi.json", routes.document, methods=["GET"]),
        *(Route(path, routes.page, methods=["GET"]) for path in ("/docs", *(f"/page/{name}" for name in FILES))),
    ]


def _describe(entry: Entry) -> dict[str, Any]:
    """The description of a bundle in GET /models."""
    manifest = entry.manifest
    return {
        "name": entry.name,
        "version": entry.version,
        "task": manifest.task,
        "problem_type": manifest.problem_type,
        "inputs": list(manifest.inputs),
        "labels": list(manifest.labels),
        "thresholds": TextClassification(manifest).thresholds,
        "max_tokens": manifest.tokens.max_length,
        "long": manifest.tokens.long,
        "runtime": entry.bundle.runtime.name,
        "notice": entry.bundle.notice,
        "measured": {
            "metric": manifest.metric,
            "value": manifest.value,
            "baseline": manifest.baseline,
            "examples": manifest.examples,
            "candidate": manifest.chosen.name,
            "p50_ms": manifest.chosen.p50_ms,
            "cpu": manifest.machine.cpu,
            "cpu_class": manifest.machine.cpu_class,
        },
        "created": manifest.created,
    }


def _headers(entry: Entry, answered: Sequence[Answered]) -> dict[str, str]:
    """The version of the bundle, and the longest time in each stage, in milliseconds (W3C Server Timing)."""
    longest = {stage: max(getattr(one, stage) for one in answered) * 1000 for stage in STAGES}
    timing = ", ".join(f"{stage};dur={ms:.2f}" for stage, ms in longest.items())
    return {"server-timing": timing, "x-bundle-version": entry.version}


def _demand_json(request: Request) -> None:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, f"Content-Type {kind!r:.60} is not supported; send application/json")


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    content = json.dumps({"error": sentence}, ensure_ascii=True)
    return Response(content, status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _error(error.status, error.sentence, headers)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "not found; see /docs", 405: "method not allowed; see /docs"}
    return _error(error.status_code, sentences.get(error.status_code, error.detail), dict(error.headers or {}))


async def _unheard(request: Request, error: Exception) -> Response:
    """Record the status of a client that has gone, or that the connection has answered; nobody receives this answer."""
    return Response(status_code=getattr(request.state, BROKEN_OFF, GONE))
