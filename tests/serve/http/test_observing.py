"""What a server tells of its requests: ids, timings, logs, metrics; and who may ask."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message as Headers
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertline.artifacts.errors import InputError
from bertline.benchmarks.serve.clients import Clients
from bertline.benchmarks.serve.serving import Serving, serving
from bertline.serve.http.keys import ENVIRONMENT, Keys
from bertline.serve.http.metrics import Metrics
from bertline.serve.http.observing import Observing
from tests.serve.http.watching import metrics
from tests.waiting import wait_for

TEXT = "a good film that nobody else has seen"
SITE = "https://example.org"
FAILING = """
import numpy as np
from bertline.launch.command import main
from bertline.serve.http import openapi, shelf

def document(*_, **__):
    raise RuntimeError("broken")

class Overflowing(shelf.Model):
    def prepare(self):
        super().prepare()
        for engine in (self._all_cores, self._per_core):
            run = engine.runtime.run
            engine.runtime.run = lambda batch, run=run: run(batch) * np.where(batch["input_ids"].size > 30, np.nan, 1)

openapi.document, shelf.Model = document, Overflowing
main()
"""

HASTY = """
from bertline.launch.command import main
from bertline.serve.http import connections

connections.SECONDS = 5.0
main()
"""


@pytest.fixture(scope="module")
def server(sealed: Path) -> Iterator[Serving]:
    with serving(sealed, "--cors", SITE) as running:
        yield running


def ask(server: Serving, path: str = "/", body: object = None, **headers: str) -> tuple[int, Headers, str]:
    data = None if body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": "application/json"}
    request = urllib.request.Request(server.url + path, data, sent)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers, refused.read().decode()


def test_a_request_is_told_by_its_id_and_never_by_its_text(server: Serving) -> None:
    status, headers, _ = ask(server, body={"inputs": TEXT}, x_request_id="mine-7")
    assert (status, headers["x-request-id"]) == (200, "mine-7")
    assert re.fullmatch(r"queue;dur=[\d.]+, tokenize;dur=[\d.]+, run;dur=[\d.]+", headers["server-timing"])
    assert re.fullmatch("[0-9a-f]{12}", headers["x-bundle-version"])
    other = ask(server, body={"inputs": TEXT}, x_request_id="with a blank")[1]["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", other)
    wait_for(lambda: other in logged(server))  # an answer is logged once it is sent
    told = logged(server)
    assert told["mine-7"] | {"ms": 0, "time": ""} == {
        "time": "", "level": "info", "message": "request", "request": "mine-7", "method": "POST", "route": "/",
        "bundle": "bundle", "status": 200, "ms": 0, "texts": 1,
    }  # fmt: skip
    assert "nobody else" not in server.log.read_text()


def test_metrics_count(server: Serving) -> None:
    before = metrics(server)
    ask(server, body={"inputs": [TEXT] * 3})
    ask(server, body={"inputs": 3})
    ask(server, "/invented/by/clients")
    after = metrics(server)
    gained = {name: value - before.get(name, 0) for name, value in after.items() if not name.endswith("created")}
    assert gained["bertline_requests_total bundle POST / 200"] == 1
    assert gained["bertline_requests_total bundle POST / 422"] == 1
    assert gained["bertline_requests_total  GET none 404"] == 1
    for stage in ("queue", "tokenize", "run"):
        assert gained[f"bertline_stage_seconds_count bundle {stage}"] == 3
    assert after["bertline_queue_texts"] == 0
    assert after["process_resident_memory_bytes"] > 1 << 20
    assert any(name.startswith("bertline_bundle_info bundle") for name in after)
    assert not any("invented" in name for name in after)


def test_of_several_bundles_the_one_that_was_asked_is_told(sealed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    other = tiny_bundle.rename(tmp_path / "other")
    with serving(sealed, other) as running:
        assert ask(running, "/models/other", {"inputs": 3}, x_request_id="mine-9")[0] == 422
        assert ask(running, "/models/invented", {"inputs": TEXT}, x_request_id="mine-10")[0] == 404
        assert ask(running, body={"inputs": TEXT})[0] == 200
        wait_for(lambda: {"mine-9", "mine-10"} <= logged(running).keys())
        assert (logged(running)["mine-9"]["bundle"], logged(running)["mine-10"]["bundle"]) == ("other", "")
        found = metrics(running)
    asked = {
        name.split(" ", 1)[1]: value for name, value in found.items() if name.startswith("bertline_requests_total")
    }
    assert asked == {
        "other POST /models/{name} 422": 1, " POST /models/{name} 404": 1, "bundle POST / 200": 1,
    }  # fmt: skip
    assert found["bertline_request_seconds_count other /models/{name}"] == 1


def test_a_failure_is_answered_and_logged_with_its_id(sealed: Path, tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    with serving(sealed, script=script) as running:
        status, headers, body = ask(running, "/openapi.json", x_request_id="mine-8")
        assert (status, headers["x-request-id"], headers["x-content-type-options"]) == (500, "mine-8", "nosniff")
        assert json.loads(body) == {"error": "the server failed on this request; its log says why"}
        wait_for(lambda: "mine-8" in logged(running))
        assert logged(running)["mine-8"]["status"] == 500
        (told,) = running.lines("the server failed on a request")
        assert told["request"] == "mine-8"
        assert "RuntimeError: broken" in told["traceback"]
        assert metrics(running)["bertline_requests_total  GET /openapi.json 500"] == 1
        assert ask(running, body={"inputs": TEXT})[0] == 200
        tensor: object = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good " * 99]}]}
        for path, asked in (("/", {"inputs": "good " * 99}), ("/v2/models/bundle/infer", tensor)):
            status, _, said = ask(running, path, asked)
            assert (status, json.loads(said)["error"][:17]) == (500, "the server failed")
            told = running.lines("the server failed on a request")[-1]
            assert "NoAnswerError: no answer: tiny computes NaN" in told["traceback"]


def observed(scope: dict[str, Any], application: ASGIApp) -> tuple[list[Message], Metrics]:
    """What is sent of a request to an application, and what is counted of it."""
    shelf: Any = SimpleNamespace(entries={}, lanes=SimpleNamespace(waiting=0))
    counted, sent = Metrics(shelf), []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    with suppress(asyncio.CancelledError):
        asyncio.run(Observing(application, counted, None)(scope, receive, send))
    return sent, counted


def test_answers_are_not_kept_until_their_connection_s_next_request() -> None:
    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["answered"] = 0.0, [{"label": "positive"}]
        await JSONResponse("answered")(scope, receive, send)

    scope = {"type": "http", "method": "POST", "headers": [], "state": {}}
    sent, _ = observed(scope, answers)
    assert sent[0]["status"] == 200
    assert scope["state"] == {}


def test_what_is_cut_by_the_end_is_told_so() -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    (start, body), counted = observed({"type": "http", "method": "POST", "headers": []}, waits)
    assert start["status"] == 503
    assert "shutting down" in json.loads(body["body"])["error"]
    assert b'method="POST",route="none",status="503"} 1.0' in counted.exposition()


def test_what_asyncio_says_is_a_line_of_json() -> None:
    code = "import logging; from bertline.serve.http import logs; logs.set_up(); logging.getLogger('asyncio').error(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stderr)["message"] == "1"


def test_a_path_with_a_slash_too_many_leads_nowhere(server: Serving) -> None:
    """Least of all to the host that the client itself has named."""
    assert ask(server, "/models/", host="elsewhere.example")[0] == 404


def test_other_sites_may_ask_only_where_they_are_named(server: Serving, sealed: Path) -> None:
    assert ask(server, body={"inputs": TEXT}, origin=SITE)[1]["access-control-allow-origin"] == SITE
    assert "Retry-After" in ask(server, "/models", origin=SITE)[1]["access-control-expose-headers"].title()
    written = "authorization, inference-header-content-length, traceparent"
    asking = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": written}
    before = urllib.request.Request(server.url + "/models", headers=asking, method="OPTIONS")
    with urllib.request.urlopen(before, timeout=20) as allowed:
        assert allowed.status == 200
    assert ask(server, body={"inputs": TEXT}, origin="https://other.org")[1]["access-control-allow-origin"] is None
    with serving(sealed) as closed:
        assert ask(closed, body={"inputs": TEXT}, origin=SITE)[1]["access-control-allow-origin"] is None


def test_keys_are_read_from_a_file_and_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Keys.read(None).admit("")
    (tmp_path / "keys").write_text("one\n\n two \n")
    monkeypatch.setenv(ENVIRONMENT, "three,four")
    keys = Keys.read(tmp_path / "keys")
    assert all(keys.admit(f"Bearer {key}") for key in ("one", "two", "three", "four"))
    for named in ("", " , ", "kl\u00e4", "one\x07"):
        monkeypatch.setenv(ENVIRONMENT, named)
        with pytest.raises(InputError, match=f"the variable {ENVIRONMENT} holds"):
            Keys.read(None)
    assert keys.admit("bearer one")
    assert not any(
        keys.admit(each) for each in ("", "one", "Basic one", "Bearer", "Bearer ", "Bearer on", "Bearer one two")
    )


@pytest.mark.parametrize(
    ("framing", "body", "status"), [("content-length: 9", "{", 408), ("transfer-encoding: chunked", "none\r\n", 400)]
)
def test_a_request_that_was_broken_off_is_told_by_what_it_was_answered_with(
    sealed: Path, tmp_path: Path, framing: str, body: str, status: int
) -> None:
    script = tmp_path / "hasty.py"
    script.write_text(HASTY)
    with serving(sealed, script=script) as running:
        place = urlsplit(running.url)
        with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
            connection.sendall(
                f"POST / HTTP/1.1\r\nhost: here\r\nx-request-id: mine-7\r\n{framing}\r\n\r\n{body}".encode()
            )
            assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())
        wait_for(lambda: "mine-7" in logged(running))
        assert logged(running)["mine-7"]["status"] == status
        assert metrics(running)[f"bertline_requests_total bundle POST / {status}"] == 1


def test_a_client_that_has_gone_frees_its_place(slow_bundle: Path) -> None:
    async def crowd(running: Serving) -> None:
        async with Clients(running.url, [TEXT]) as clients:
            leaving = [asyncio.ensure_future(clients.ask()) for _ in range(120)]
            await asyncio.to_thread(wait_for, lambda: metrics(running)["bertline_queue_texts"] > 60)
            for one in leaving:
                one.cancel()

    with serving(slow_bundle, "--threads", "2", "--limit", "seconds=120") as running:
        assert metrics(running)["bertline_rejected_total gone"] == 0  # not absent: rate() needs a first value
        asyncio.run(crowd(running))
        wait_for(lambda: metrics(running)["bertline_rejected_total gone"] > 60)
        gone = metrics(running)["bertline_rejected_total gone"]
        assert metrics(running)["bertline_queue_texts"] <= 120 - gone
        assert running.end() == 0
        assert {line["message"] for line in running.log_lines()} == {"answering", "listening", "request", "ended"}


def test_who_is_turned_away_is_told_when_to_try_again_and_counted(sealed: Path) -> None:
    """`late` and `full` are what an operator watches."""
    with serving(sealed, "--limit", "seconds=0.000001") as running:
        status, headers, _ = ask(running, body={"inputs": TEXT})
        assert (status, headers["retry-after"]) == (503, "1")
        assert metrics(running)["bertline_rejected_total late"] == 1


def test_a_full_queue_is_counted_as_full(slow_bundle: Path) -> None:
    async def crowd(url: str) -> set[int]:
        async with Clients(url, ["the film was good " * 8]) as clients:
            return {one.status for one in await asyncio.gather(*(clients.ask() for _ in range(200)))}

    with serving(slow_bundle, "--threads", "2", "--limit", "seconds=0.5") as running:
        statuses = asyncio.run(crowd(running.url))
        assert 503 in statuses
        assert statuses <= {200, 503}
        assert metrics(running)["bertline_rejected_total full"] > 0


def test_a_client_that_has_gone_frees_the_place_of_all_that_it_has_asked(slow_bundle: Path) -> None:
    """Of two requests sent in a row the first is being answered as the client goes, and uvicorn tells the second."""
    body = json.dumps({"inputs": [TEXT] * 120}).encode()
    asked = f"POST / HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with serving(slow_bundle, "--threads", "2") as running:
        place = urlsplit(running.url)
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(2 * (asked.encode() + body))
            wait_for(lambda: metrics(running)["bertline_queue_texts"] > 0)
        wait_for(lambda: metrics(running).get("bertline_rejected_total gone") == 1)
        wait_for(lambda: metrics(running)["bertline_queue_texts"] == 0)


def logged(server: Serving) -> dict[str, dict[str, Any]]:
    """What was logged of requests, by their ids."""
    return {line["request"]: line for line in server.lines("request")}
