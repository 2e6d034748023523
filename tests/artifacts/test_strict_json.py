"""What readers of JSON take differently is not read."""

import pytest

from bertline.artifacts import strict_json
from bertline.artifacts.strict_json import NotJsonError


def test_what_json_is_is_read() -> None:
    assert strict_json.loads('{"a": [1, 2.5, "ü", null, true], "b": {"a": 1}}'.encode()) == {
        "a": [1, 2.5, "ü", None, True], "b": {"a": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "key 'b' occurs twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" + b"1" * 10_000 + b"]", "a number that is too long"),
        (b'"caf\xc3"', "not UTF-8: byte 4"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{", "at character 1"),
        (b"", "at character 0"),
    ],
)
def test_anything_else_is_told(content: bytes, words: str) -> None:
    with pytest.raises(NotJsonError, match=words):
        strict_json.loads(content)
