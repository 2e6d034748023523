"""The sites whose pages may ask, as browsers spell them in the header Origin: they are compared letter by letter."""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from bertline.artifacts.errors import InputError

ANY = ("*", "null")
"""All sites; pages that are of none, such as files."""
PORTS = {"http": 80, "https": 443}
"""Which browsers leave out."""


def read(given: Sequence[str]) -> list[str]:
    """The values of --cors.

    Raises:
        InputError: one is spelled as no browser does.
    """
    faults = []
    for one in given:
        if one not in ANY and (spelled := _spell(one)) != one:
            advice = f"write {spelled}" if spelled else "a site is SCHEME://HOST or SCHEME://HOST:PORT; * is all sites"
            faults.append(f"--cors {one}: no browser spells a site like this; {advice}")
    if faults:
        raise InputError(*faults)
    return list(given)


def _spell(text: str) -> str | None:
    """A site as browsers spell it; None where none is meant."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        given = parts.hostname or ""
        place = f"[{IPv6Address(given)}]" if ":" in given else given.encode("idna").decode()
        port = parts.port
    except ValueError:  # and of IDNA, UnicodeError
        return None
    if not parts.scheme or not (":" in given or _is_host(place, given)):
        return None
    return f"{parts.scheme}://{place}" + ("" if port in (None, PORTS.get(parts.scheme)) else f":{port}")


def _is_host(encoded: str, given: str) -> bool:
    """Whether a name was encoded as browsers would: of ß and the like Python's IDNA makes another host."""
    return bool(re.fullmatch(r"[a-z0-9._-]+", encoded)) and given in (encoded, encoded.encode().decode("idna"))
