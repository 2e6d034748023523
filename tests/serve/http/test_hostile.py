"""Hostile requests, in the manner of Triton's tests of its HTTP front end: a 4xx each, soon, and the server goes on."""

import gzip
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from bertline.benchmarks.serve.serving import Serving, serving

INFER = "/v2/models/bundle/infer"
CPU_SECONDS = 3.0
DEEP = 10_000


class Answer(NamedTuple):
    """Of the server."""

    status: int
    headers: str
    body: bytes


@pytest.fixture(scope="module")
def server(sealed: Path) -> Iterator[Serving]:
    """One for all these requests, as it would be in earnest."""
    with serving(sealed) as running:
        yield running
        assert "Traceback" not in running.log.read_text()
        assert not running.lines("the server failed on a request")


def exchange(server: Serving, sent: bytes, shut: bool = False) -> Answer:
    """The first answer to bytes; a connection that is closed without one is status 0."""
    host, port = server.url.removeprefix("http://").split(":")
    before = server.cpu_seconds()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(sent)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was answered before it was whole
        answer = _read(connection)
    assert server.cpu_seconds() - before < CPU_SECONDS
    return answer


def _read(connection: socket.socket) -> Answer:
    found = b""
    try:
        while b"\r\n\r\n" not in found and (chunk := connection.recv(65536)):
            found += chunk
        head, _, body = found.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
        while len(body) < length and (chunk := connection.recv(65536)):
            body += chunk
    except ConnectionResetError:
        return Answer(0, "", b"")
    return Answer(int(head[9:12] or 0), "\n".join(lines), body)


def request(body: bytes, path: str = "/", headers: str = "", method: str = "POST") -> bytes:
    kind = "" if "content-type" in headers.lower() else "content-type: application/json\r\n"
    framed = re.search("^(content-length|transfer-encoding):", headers, re.MULTILINE)
    length = "" if framed else f"content-length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nhost: here\r\n{kind}{length}{headers}\r\n".encode("latin-1") + body


def refused(answer: Answer) -> str:
    """The sentence of a 4xx that names no path and no exception."""
    assert 400 <= answer.status < 500, answer
    sentence = json.loads(answer.body)["error"]
    leaks = ("Traceback", "Error", "Exception", "/home", "/tmp", ".py", "packages")
    assert not [word for word in leaks if word in sentence]
    assert len(sentence) < 300
    return str(sentence)


def inputs(value: str) -> bytes:
    return b'{"inputs": %b}' % value.encode()


JSON = {
    "nothing": (b"", 400),
    "no json": (b"inputs=text", 400),
    "a list": (b"[]", 422),
    "null": (b"null", 422),
    "a string": (b'"text"', 422),
    "cut short": (b'{"inputs": "tex', 400),
    "two values": (b'{"inputs": "text"} {"inputs": "text"}', 400),
    "a comment": (b'{"inputs": "text" /* so */}', 400),
    "byte order mark": (b'\xef\xbb\xbf{"inputs": "text"}', 400),
    "utf-16": ('{"inputs": "text"}'.encode("utf-16"), 400),
    "half a character in bytes": (b'{"inputs": "caf\xc3"}', 400),
    "overlong": (b'{"inputs": "\xc0\xaf"}', 400),
    "half a character by escape": (b'{"inputs": "\\ud83d"}', 422),
    "half a character in a list": (b'{"inputs": ["fine", "\\udc00"]}', 422),
    "a raw nul": (b'{"inputs": "a\x00b"}', 400),
    "a key twice": (b'{"inputs": "good", "inputs": "bad"}', 400),
    "a key twice within": (b'{"inputs": "good", "parameters": {"top_k": 1, "top_k": 2}}', 400),
    "the last of many keys twice": (b"{%b}" % b",".join(b'"%d":1' % min(one, 79_999) for one in range(80_001)), 400),
    "nan": (b'{"inputs": NaN}', 400),
    "infinity": (b'{"inputs": "good", "parameters": {"top_k": -Infinity}}', 400),
    "1e999": (b'{"inputs": "good", "parameters": {"top_k": 1e999}}', 422),
    "many digits": (b'{"inputs": "good", "parameters": {"top_k": %b}}' % (b"9" * 5000), 400),
    "huge": (b'{"inputs": "good", "parameters": {"top_k": 18446744073709551616000}}', 200),
    "deep arrays": (inputs("[" * DEEP + "]" * DEEP), 400),
    "deep objects": (b'{"inputs": "good", "options": ' + b'{"a": ' * DEEP + b"1" + b"}" * DEEP + b"}", 400),
    "deep and open": (b"[" * DEEP, 400),
    "deep parameters": (b'{"inputs": "good", "parameters": ' + b"[" * DEEP + b"]" * DEEP + b"}", 400),
    "a long key": (b'{"inputs": "good", "%b": 1}' % (b"k" * 500_000), 422),
    "no inputs": (b"{}", 422),
    "a number": (b'{"inputs": 3}', 422),
    "an object": (b'{"inputs": {"text": "good"}}', 422),
    "an empty list": (b'{"inputs": []}', 422),
    "a list in a list": (b'{"inputs": [["good"]]}', 422),
    "129 texts": (inputs(json.dumps(["good"] * 129)), 422),
    "128 texts": (inputs(json.dumps(["good"] * 128)), 200),
    "an unknown key": (b'{"inputs": "good", "model": "/etc/passwd"}', 422),
    "an unknown parameter": (b'{"inputs": "good", "parameters": {"trust_remote_code": true}}', 422),
    "top_k of 0": (b'{"inputs": "good", "parameters": {"top_k": 0}}', 422),
    "top_k of true": (b'{"inputs": "good", "parameters": {"top_k": true}}', 422),
    "100,001 characters": (inputs(json.dumps("x" * 100_001)), 422),
    "100,000 characters": (inputs(json.dumps("x" * 100_000)), 200),
    "blanks": (inputs(json.dumps(" " * 100_000)), 200),
    "a million blanks": (inputs(json.dumps(" " * 1_000_000)), 422),
    "a megabyte": (inputs(json.dumps("x" * (1 << 20))), 413),
    "control characters": (inputs(json.dumps("".join(map(chr, range(32))) * 1000)), 200),
    "an escaped nul": (b'{"inputs": "a\\u0000b"}', 200),
    "an empty text": (b'{"inputs": ""}', 200),
    "combining marks": (inputs(json.dumps("a" + "\u0301" * 50_000)), 200),
    "right to left": (inputs(json.dumps("\u202e\u05d0" * 1000)), 200),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_bodies(server: Serving, name: str) -> None:
    body, status = JSON[name]
    answer = exchange(server, request(body))
    assert answer.status == status, answer.body[:300]
    if status != 200:
        refused(answer)


def tensor(**changes: object) -> bytes:
    """A request of Open Inference Protocol, of one text, changed."""
    one = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]} | changes
    return json.dumps({"inputs": [one]}).encode()


def binary(raw: bytes, size: object, shape: object = (1,), header: object = None) -> tuple[bytes, str]:
    """A body with a binary tensor, and the header that says where it begins."""
    one = {"name": "text", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [one]}).encode()
    return head + raw, f"inference-header-content-length: {len(head) if header is None else header}\r\n"


GOOD = struct.pack("<I", 4) + b"good"
TENSORS = {
    "fine": ((tensor(), ""), 200),
    "a column": ((tensor(shape=[1, 1]), ""), 200),
    "no inputs": ((b'{"inputs": []}', ""), 422),
    "300,000 inputs": ((b'{"inputs": [%b]}' % b",".join([b"{}"] * 300_000), ""), 422),
    "another input": ((tensor(name="texts"), ""), 422),
    "another type": ((tensor(datatype="INT32"), ""), 422),
    "data of numbers": ((tensor(data=[1]), ""), 422),
    "data in lists": ((tensor(data=[[["good"]]]), ""), 422),
    "no data": ((tensor(data=None), ""), 422),
    "a shape too large": ((tensor(shape=[2]), ""), 422),
    "a huge shape": ((tensor(shape=[2**63]), ""), 422),
    "a shape that overflows": ((tensor(shape=[2**32, 2**32]), ""), 422),
    "a number of 400 digits": ((tensor(shape=[10**400]), ""), 422),
    "a negative shape": ((tensor(shape=[-1]), ""), 422),
    "no shape": ((tensor(shape=[]), ""), 422),
    "129 texts": ((tensor(shape=[129], data=["good"] * 129), ""), 422),
    "half a character": ((tensor(data=["\ud800"]), ""), 422),
    "a long text": ((tensor(data=["x" * 100_001]), ""), 422),
    "the input twice": ((json.dumps({"inputs": [json.loads(tensor())["inputs"][0]] * 2}).encode(), ""), 422),
    "an unknown output": ((tensor()[:-1] + b', "outputs": [{"name": "logits"}]}', ""), 422),
    "an output as classes": (
        (tensor()[:-1] + b', "outputs": [{"name": "label", "parameters": {"classification": 2}}]}', ""), 422
    ),
    "an output twice": ((tensor()[:-1] + b', "outputs": [{"name": "label"}, {"name": "label"}]}', ""), 422),
    "binary": (binary(GOOD, 8), 200),
    "binary of two": (binary(GOOD * 2, 16, (2,)), 200),
    "binary, and more": (binary(GOOD + b"more", 8), 400),
    "binary, said to be more": (binary(GOOD, 9), 400),
    "binary, negative": (binary(GOOD, -1), 422),
    "binary, huge": (binary(GOOD, 2**70), 400),
    "binary, an element too long": (binary(struct.pack("<I", 2**32 - 1) + b"good", 8), 400),
    "binary, a length cut short": (binary(b"\x04\x00", 2), 400),
    "binary, not utf-8": (binary(struct.pack("<I", 1) + b"\xff", 5), 400),
    "binary, fewer than the shape": (binary(GOOD, 8, (2,)), 422),
    "a header beyond the body": (binary(GOOD, 8, header=10_000), 400),
    "a header within the JSON": (binary(GOOD, 8, header=5), 400),
    "a negative header": (binary(GOOD, 8, header=-1), 400),
    "a header of other digits": (binary(GOOD, 8, header="\xb2"), 400),
    "a header of many digits": (binary(GOOD, 8, header="9" * 5000), 400),
    "a header of nothing": (binary(GOOD, 8, header=""), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(server: Serving, name: str) -> None:
    (body, headers), status = TENSORS[name]
    answer = exchange(server, request(body, INFER, headers))
    assert answer.status == status, answer.body[:300]
    if status != 200:
        refused(answer)


def test_far_too_much_is_refused_without_a_look_at_each(server: Serving) -> None:
    keys = b'{"inputs": "good", %b}' % b",".join(b'"%d":1' % one for one in range(100_000))
    assert refused(exchange(server, request(keys))) == "the body: over 1,000 faults; see /docs"
    body, headers = binary(bytes(800_000), 800_000, (200_000,))
    sentence = refused(exchange(server, request(body, INFER, headers)))
    assert sentence == "input 'text': over 128 texts; 1 to 128 are allowed in a request"


FINE = b'{"inputs": "good"}'
BOMB = gzip.compress(b" " * (1 << 28), 9)
ENCODED = {
    "gzip": (gzip.compress(FINE), "gzip", 200),
    "deflate": (zlib.compress(FINE), "deflate", 200),
    "capitals": (gzip.compress(FINE), "GZIP", 200),
    "a bomb": (BOMB, "gzip", 413),
    "gzip that is none": (FINE, "gzip", 400),
    "gzip of gzip": (gzip.compress(gzip.compress(FINE)), "gzip", 400),
    "gzip cut short": (gzip.compress(FINE)[:-4], "gzip", 400),
    "gzip, and more": (gzip.compress(FINE) + b"more", "gzip", 400),
    "two of gzip": (gzip.compress(FINE) * 2, "gzip", 400),
    "empty gzip": (b"", "gzip", 400),
    "brotli": (FINE, "br", 415),
    "two encodings": (gzip.compress(gzip.compress(FINE)), "gzip, gzip", 415),
}


@pytest.mark.parametrize("name", ENCODED)
def test_compressed_bodies(server: Serving, name: str) -> None:
    body, encoding, status = ENCODED[name]
    before = server.rss_bytes()
    answer = exchange(server, request(body, headers=f"content-encoding: {encoding}\r\n"))
    assert answer.status == status, answer.body[:300]
    assert server.rss_bytes() < before + (32 << 20)
    if status != 200:
        refused(answer)


HTTP = {
    "another type": (request(FINE, headers="content-type: text/plain\r\n"), 415),
    "a form": (request(FINE, headers="content-type: application/x-www-form-urlencoded\r\n"), 415),
    "parameters of the type": (request(FINE, headers="content-type: application/json; charset=utf-8\r\n"), 200),
    "no such path": (request(FINE, "/v3"), 404),
    "up the tree": (request(FINE, "/models/../../etc/passwd"), 404),
    "up the tree, encoded": (request(FINE, "/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404),
    "a nul in the path": (request(FINE, "/models/bundle%00"), 404),
    "no such model": (request(FINE, "/models/other"), 404),
    "a file of the page's folder": (request(b"", "/page/../app.py", method="GET"), 404),
    "get of infer": (request(b"", INFER, method="GET"), 405),
    "put": (request(FINE, method="PUT"), 405),
    "delete": (request(b"", method="DELETE"), 405),
    "trace": (request(b"", method="TRACE"), 405),
    "options": (request(b"", method="OPTIONS"), 405),
    "a path in the host": (request(b"", method="GET").replace(b"host: here", b"host: here/none?"), 200),
    "no method": (request(FINE, method="BREW"), 400),
    "method override": (request(FINE, INFER, "x-http-method-override: GET\r\n", "POST"), 422),
    "a long path": (request(FINE, "/" + "a" * 60_000), 404),
    "no number of bytes": (request(FINE, headers="content-length: many\r\n"), 400),
    "a negative number of bytes": (request(FINE, headers="content-length: -1\r\n"), 400),
    "two numbers of bytes": (request(FINE, headers="content-length: 18\r\ncontent-length: 5\r\n"), 400),
    "bytes and chunks": (request(FINE, headers="content-length: 18\r\ntransfer-encoding: chunked\r\n"), 400),
    "too few bytes said": (request(FINE, headers="content-length: 5\r\n"), 400),
    "a chunk of no size": (request(b"zz\r\ngood\r\n0\r\n\r\n", headers="transfer-encoding: chunked\r\n"), 400),
    "chunks": (request(b"12\r\n" + FINE + b"\r\n0\r\n\r\n", headers="transfer-encoding: chunked\r\n"), 200),
    "endless chunks": (request(b"ffff\r\n" + b"x" * 65535 + b"\r\n", headers="transfer-encoding: chunked\r\n")
                       + (b"ffff\r\n" + b"x" * 65535 + b"\r\n") * 40, 413),
    "a trailer that would change the request": (request(b"12\r\n" + FINE + b"\r\n0\r\ncontent-encoding: br\r\n\r\n",
                                                        headers="transfer-encoding: chunked\r\n"), 200),
    "a gigabyte said": (request(b"x" * (2 << 20), headers="content-length: 1000000000\r\n"), 413),
    "a blank in a header's name": (request(FINE, headers="x y: z\r\n"), 400),
    "a folded header": (request(FINE, headers="x: y\r\n z\r\n"), 400),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a head without end": (b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000, 431),
    "an identity of a kilobyte": (request(FINE, headers=f"x-request-id: {'a' * 1000}\r\n"), 200),
}  # fmt: skip


@pytest.mark.parametrize("name", HTTP)
def test_http(server: Serving, name: str) -> None:
    sent, status = HTTP[name]
    answer = exchange(server, sent)
    assert answer.status == status, answer
    if status != 200:
        refused(answer)
    assert "a" * 1000 not in answer.headers


OFFER = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
CHUNKS = b"12\r\n" + FINE + b"\r\n0\r\n\r\n"
LIVE = request(b"", "/v2/health/live", method="GET")


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (request(FINE, headers=OFFER), [200]),
        (request(FINE, headers=OFFER) * 2 + request(FINE) + request(FINE, headers=OFFER), [200] * 4),
        (request(CHUNKS, headers=f"transfer-encoding: chunked\r\n{OFFER}") + LIVE, [200, 200]),
        (request(LIVE, headers=OFFER), [400]),
        (request(b"", "/v2/health/live", "connection: upgrade\r\nupgrade: websocket\r\n", "GET"), [200]),
        (request(LIVE, headers="", method="CONNECT"), [400]),
    ],
    ids=["one", "several", "in chunks", "a request as the body", "websocket", "connect"],
)
@pytest.mark.parametrize("packets", [1, 2])
def test_an_offer_of_another_protocol_is_ignored_and_its_body_read(
    server: Serving, sent: bytes, statuses: list[int], packets: int
) -> None:
    """As of Java's HttpClient and `curl --http2`; a body must not be the next request, whoever stands in between."""
    place = urlsplit(server.url)
    end = sent.index(b"\r\n\r\n") + 4 if packets == 2 else len(sent)
    found = b""
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(sent[:end])
        sleep(0.1)
        with suppress(ConnectionError):  # it was answered before it was whole
            connection.sendall(sent[end:])
        with suppress(ConnectionError, TimeoutError):
            while chunk := connection.recv(65536):
                found += chunk
                if found.count(b"HTTP/1.1 ") >= len(statuses):
                    connection.settimeout(0.2)  # for one more, which there should not be
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", found)] == statuses, found


def test_a_body_that_ends_early_is_no_request(server: Serving) -> None:
    assert exchange(server, request(FINE, headers="content-length: 100\r\n"), shut=True).status in (0, 400, 408)


@pytest.mark.parametrize("trailers", [b"x: y\r\n" * 100_000, b"x: " + b"y" * 600_000], ids=["many", "long"])
def test_trailers_are_bounded(server: Serving, trailers: bytes) -> None:
    chunks = b"12\r\n" + FINE + b"\r\n0\r\n" + trailers
    answer = exchange(server, request(chunks, headers="transfer-encoding: chunked\r\n"))
    assert answer.status in (0, 431)


def test_the_size_of_a_chunk_may_end_a_packet(server: Serving) -> None:
    """Of which all that came before it is no trailer."""
    body = inputs(json.dumps(["x" * 60_000] * 5))
    chunks = b"%x\r\n%b\r\n%x\r\n" % (200_000, body[:200_000], len(body) - 200_000)
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(request(chunks, headers="transfer-encoding: chunked\r\n"))
        sleep(0.2)
        connection.sendall(body[200_000:] + b"\r\n0\r\n\r\n")
        assert _read(connection).status == 200


def test_many_headers_are_not_kept(server: Serving) -> None:
    before = server.rss_bytes()
    many = "".join(f"x-{number}: {'y' * 1000}\r\n" for number in range(2000))
    answer = exchange(server, request(FINE, headers=many))
    assert answer.status in (0, 431)
    assert server.rss_bytes() < before + (32 << 20)


def test_the_server_has_gone_on(server: Serving) -> None:
    """After all of it."""
    answer = exchange(server, request(FINE))
    assert answer.status == 200
    assert json.loads(answer.body)[0][0]["label"] in ("negative", "positive")
