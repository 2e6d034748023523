"""The parsers of requests on a hundred thousand inputs that are nearly right, or not at all: a 4xx, or an answer."""

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertline.artifacts import bundle
from bertline.artifacts.bundle import Manifest
from bertline.serve.http import bodies, open_inference
from bertline.serve.http.hugging_face import Format
from bertline.serve.http.limits import Limits
from bertline.serve.http.refusals import RefusedError

Parsers = tuple[Manifest, Format]
LIMITS = Limits(body_bytes=1 << 16, texts=4, characters=100)
TASKS: dict[str, dict[str, Any]] = {
    "text-classification": {"inputs": ["text"]},
    "token-classification": {"inputs": ["text"], "problem_type": None},
    "question-answering": {"inputs": ["question", "context"], "problem_type": None, "labels": []},
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=120)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["text", "BYTES", "good", "question", "context", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "parameters", "options", "top_k", "name", "shape", "datatype", "data", "id", "outputs",
                 "binary_data_size", "binary_data_output", "question", "context", "text"]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)  # fmt: skip
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["text", "question", "context"]) | SCALARS,
     "shape": st.lists(st.integers(-1, 5) | st.integers(), max_size=3),
     "datatype": st.sampled_from(["BYTES", "FP32"])},
    optional={"data": st.lists(VALUES, max_size=4),
              "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-2, 30) | SCALARS)},
)  # fmt: skip
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3)}, optional={"id": SCALARS, "outputs": VALUES, "parameters": VALUES}
)
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=3)


@pytest.fixture(scope="module")
def parsers(sealed: Path) -> list[Parsers]:
    """Those of each task."""
    made = bundle.read(sealed)
    manifests = [made.model_copy(update={"task": task, **changes}) for task, changes in TASKS.items()]
    return [(manifest, Format(manifest, LIMITS)) for manifest in manifests]


def damaged(content: bytes, damage: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for place, value in damage:
        if changed:
            changed[place % len(changed)] = value
    return bytes(changed)


def spelled(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def refusal(read: Callable[[], Any]) -> tuple[RefusedError | None, Any]:
    """What was refused, or what was read; nothing else may be raised."""
    try:
        return None, read()
    except RefusedError as error:
        return error, None


def holds(parsers: list[Parsers], content: bytes, header: str | None) -> None:
    """All parsers on the same bytes: refused by a 4xx with a sentence, or texts within the limits."""
    for manifest, form in parsers:
        hugging_face = refusal(partial(_hugging_face, form, content))
        v2 = refusal(partial(open_inference.read, content, header, manifest, LIMITS))
        for refused, found in (hugging_face, v2):
            if refused is not None:
                assert 400 <= refused.status < 500
                assert refused.sentence
                continue
            texts, _ = found
            assert 1 <= len(texts) <= LIMITS.texts
            assert all(len(part or "") <= LIMITS.characters for text in texts for part in text)
            json.dumps(texts, ensure_ascii=False).encode()


def _hugging_face(form: Format, content: bytes) -> Any:
    return form.read(bodies.parsed(content))


COUNTS = [100, pytest.param(25_000, marks=pytest.mark.load)]


@pytest.mark.parametrize("count", COUNTS)
def test_values_of_any_shape(parsers: list[Parsers], count: int) -> None:
    @_settings(count)
    @given(value=VALUES, damage=DAMAGE, header=st.none() | st.integers(-1, 200).map(str) | st.text(max_size=4))
    def run(value: Any, damage: list[tuple[int, int]], header: str | None) -> None:
        holds(parsers, damaged(spelled(value), damage), header)

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_requests_that_are_nearly_right(parsers: list[Parsers], count: int) -> None:
    @_settings(count)
    @given(value=REQUESTS, tail=st.binary(max_size=40), damage=DAMAGE)
    def run(value: Any, tail: bytes, damage: list[tuple[int, int]]) -> None:
        head = spelled(value)
        holds(parsers, damaged(head + tail, damage), str(len(head)))

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_any_bytes(parsers: list[Parsers], count: int) -> None:
    @_settings(count)
    @given(content=st.binary(max_size=300), header=st.none() | st.integers(0, 300).map(str))
    def run(content: bytes, header: str | None) -> None:
        holds(parsers, content, header)

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_compressed_bytes(count: int) -> None:
    @_settings(count)
    @given(plain=st.binary(max_size=300), damage=DAMAGE, cut=st.integers(0, 400))
    def run(plain: bytes, damage: list[tuple[int, int]], cut: int) -> None:
        for encoding in bodies.ENCODINGS:
            content = damaged(gzip.compress(plain), damage)[:cut]
            refused, found = refusal(partial(bodies.decompressed, content, encoding, 200))
            assert refused.status in (400, 413) if refused else len(found) <= 200

    run()


def _settings(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
