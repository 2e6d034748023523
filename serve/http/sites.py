"""Sites whose pages may read answers (CORS), spelled exactly as browsers spell them in the Origin header."""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from bertline.artifacts.errors import InputError

ANY = ("*", "null")
"""All sites; and pages without a site, such as local files."""
PORTS = {"http": 80, "https": 443}
"""Default ports, which browsers leave out."""


def read(given: Sequence[str]) -> list[str]:
    """Check the values of --cors.

    Raises:
        InputError: a site is not spelled as browsers spell it.
    """
    faults = []
    for one in given:
        if one not in ANY and (spelled := _spell(one)) != one:
            advice = f"write {spelled}" if spelled else "write SCHEME://HOST or SCHEME://HOST:PORT, or * for all sites"
            faults.append(f"--cors {one}: not a site as browsers spell it; {advice}")
    if faults:
        raise InputError(*faults)
    return list(given)


def _spell(text: str) -> str | None:
    """A site as browsers spell it; None if the text does not name one."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        given = parts.hostname or ""
        place = f"[{IPv6Address(given)}]" if ":" in given else given.encode("idna").decode()
        port = parts.port
    except ValueError:  # also UnicodeError, from IDNA
        return None
    if not parts.scheme or not (":" in given or _is_host(place, given)):
        return None
    return f"{parts.scheme}://{place}" + ("" if port in (None, PORTS.get(parts.scheme)) else f":{port}")


def _is_host(encoded: str, given: str) -> bool:
    """Whether a name was encoded as browsers would encode it: of ß and the like, Python's IDNA makes another host."""
    return bool(re.fullmatch(r"[a-z0-9._-]+", encoded)) and given in (encoded, encoded.encode().decode("idna"))
