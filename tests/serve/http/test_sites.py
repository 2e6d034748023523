"""Sites whose pages may ask: one that no browser would name is refused, with what to write."""

import pytest

from bertline.artifacts.errors import InputError
from bertline.serve.http import sites

FINE = [
    "*", "null", "https://example.org", "http://localhost:3000", "http://[::1]:81", "http://10.0.0.1",
    "chrome-extension://abcdef",
]  # fmt: skip


def test_what_browsers_write_is_taken() -> None:
    assert sites.read(FINE) == FINE


@pytest.mark.parametrize(
    ("site", "advice"),
    [
        ("https://example.org/", "write https://example.org"),
        ("https://example.org/path?query", "write https://example.org"),
        ("example.org", "write https://example.org"),
        ("localhost:3000", "write https://localhost:3000"),
        ("HTTPS://Example.org", "write https://example.org"),
        ("https://example.org:443", "write https://example.org"),
        ("http://[::1]:80", "write http://[::1]"),
        ("https://bücher.example", "write https://xn--bcher-kva.example"),
        ("http://[0:0:0:0:0:0:0:1]:81", "write http://[::1]:81"),
        ("https://straße.example", "write SCHEME://HOST or SCHEME://HOST:PORT"),
        ("https://*.example.org", "write SCHEME://HOST or SCHEME://HOST:PORT"),
        ("https://example.org:99999", "write SCHEME://HOST or SCHEME://HOST:PORT"),
        ("", "write SCHEME://HOST or SCHEME://HOST:PORT"),
    ],
)
def test_others_are_refused_with_what_to_write(site: str, advice: str) -> None:
    with pytest.raises(InputError) as raised:
        sites.read(["https://example.org", site])
    assert str(raised.value).startswith(f"--cors {site}: not a site as browsers spell it; {advice}")
