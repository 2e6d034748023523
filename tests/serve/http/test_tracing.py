"""Traces: what a receiver of OTLP over HTTP hears of requests, and what it never hears."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bertline.artifacts.errors import InputError
from bertline.benchmarks.serve.serving import serving
from bertline.serve.http import tracing

TEXT = "nobody else has seen it"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HIDDEN = "import sys; sys.modules['opentelemetry'] = None\n"
COMMAND = "from bertline.launch.command import main; main()\n"


class Receiver:
    """A receiver of OTLP over HTTP, of what it got so far."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def scopes(self) -> list[Any]:
        """What was told, with the resource that told it."""
        return [part for body in self.bodies for part in ExportTraceServiceRequest.FromString(body).resource_spans]

    @property
    def spans(self) -> list[Any]:
        return [span for part in self.scopes for scope in part.scope_spans for span in scope.spans]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """One that the variables name."""
    found = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def ask(url: str, body: object = None, **headers: str) -> int:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers | {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def told(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    found = {one.key: (one.value.WhichOneof("value"), one.value) for one in attributes}
    return {
        key: [each.string_value for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
        for key, (kind, value) in found.items()
    }


def test_a_request_is_a_span_of_its_caller_s_trace_with_its_stages_and_no_text(
    sealed: Path, receiver: Receiver
) -> None:
    with serving(sealed) as server:
        headers = {"traceparent": CALLER, "x-request-id": "mine-7", "user-agent": "test/1"}
        assert ask(f"{server.url}/models/bundle?why={TEXT.replace(' ', '+')}", {"inputs": [TEXT] * 3}, **headers) == 200
        assert server.end() == 0
    (span,) = [one for one in receiver.spans if one.kind == one.SPAN_KIND_SERVER]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == tuple(CALLER.split("-")[1:3])
    assert span.name == "POST /models/{name}"
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert told(span.attributes) == {
        "http.request.method": "POST", "http.response.status_code": 200, "http.route": "/models/{name}",
        "url.path": "/models/bundle", "url.scheme": "http", "network.protocol.version": "1.1",
        "server.address": "127.0.0.1", "server.port": int(server.url.rpartition(":")[2]),
        "client.address": "127.0.0.1", "user_agent.original": "test/1",
        "http.response.header.x-request-id": ["mine-7"], "bertline.bundle": "bundle", "bertline.texts": 3,
    }  # fmt: skip
    stages = [one for one in receiver.spans if one is not span and one.parent_span_id == span.span_id]
    assert [one.name for one in stages] == ["queue", "tokenize", "run"]
    assert {one.trace_id for one in stages} == {span.trace_id}
    times = [(one.start_time_unix_nano, one.end_time_unix_nano) for one in stages]
    for begun, ended in times:
        assert span.start_time_unix_nano <= begun <= ended <= span.end_time_unix_nano
    assert times == sorted(times)
    assert not any(words in body for body in receiver.bodies for words in (b"nobody", b"seen"))


def test_requests_that_are_refused_are_told_without_what_the_client_invented(
    sealed: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=reviews,deployment.environment.name=test")
    with serving(sealed, "--limit", "seconds=0.000001") as server:
        assert ask(f"{server.url}/", {"inputs": TEXT}) == 503
        assert ask(f"{server.url}/secret", {"inputs": TEXT}) == 404
        assert ask(f"{server.url}/models/secret", {"inputs": TEXT}) == 404
        assert ask(f"{server.url}/v2/models/bundle/versions/secret") == 404
        assert server.end() == 0
    late, unrouted, unknown, other = receiver.spans
    assert (late.name, late.status.code) == ("POST /", late.status.STATUS_CODE_ERROR)
    assert told(late.attributes)["error.type"] == "503"
    assert (unrouted.name, unrouted.status.code) == ("POST", late.status.STATUS_CODE_UNSET)
    assert unknown.name == "POST /models/{name}"
    paths = [told(one.attributes)["url.path"] for one in (late, unrouted, unknown, other)]
    assert paths == ["/", "REDACTED", "REDACTED", "REDACTED"]
    assert not any(one.parent_span_id for one in receiver.spans)
    assert not any(b"secret" in body or b"nobody" in body for body in receiver.bodies)
    (resource,) = {json.dumps(told(part.resource.attributes)) for part in receiver.scopes}
    assert json.loads(resource).items() >= {"service.name": "reviews", "deployment.environment.name": "test"}.items()


def test_where_nothing_listens_requests_are_answered_and_a_line_tells(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with serving(sealed) as server:
        assert ask(f"{server.url}/", {"inputs": TEXT}) == 200
        assert server.end() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert any("Failed to export" in line["message"] for line in lines)


def test_it_is_imported_only_where_it_is_asked_for(sealed: Path, tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    telling = "lambda code: (print([*sys.modules], file=sys.stderr, flush=True), end(code))"
    script.write_text(f"import os, sys\nend = os._exit\nos._exit = {telling}\n{COMMAND}")
    with serving(sealed, script=script) as server:
        assert ask(f"{server.url}/", {"inputs": TEXT}) == 200
        assert server.end() == 0
        modules = server.log.read_text().splitlines()[-1]
    assert "starlette" in modules
    assert "opentelemetry" not in modules


def test_without_the_extra_it_is_one_line_and_code_2(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + COMMAND, "serve", str(sealed), "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    words = "OTEL_TRACES_EXPORTER asks for traces, but opentelemetry is not installed; unset the variable"
    assert (done.returncode, words in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin: only otlp and none are supported"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: only http/protobuf is supported"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"}, "ENDPOINT=localhost:4317: not the URL of a receiver"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, r"ENDPOINT=http://\[::1: not the URL of a receiver"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "another OTEL_ variable is invalid: max_queue_size must be a positive"),
    ],
)
def test_variables_that_cannot_be_followed_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        tracing.read()


@pytest.mark.parametrize("off", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}])
def test_no_variable_and_those_that_say_so_mean_no_traces(monkeypatch: pytest.MonkeyPatch, off: dict[str, str]) -> None:
    if off:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in off.items():
        monkeypatch.setenv(name, value)
    assert tracing.read() is None
