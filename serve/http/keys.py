"""API keys, from a file or the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from bertline.artifacts.errors import InputError

ENVIRONMENT = "BERTLINE_API_KEYS"


class Keys:
    """The keys that a server accepts; if there are none, it requires none."""

    def __init__(self, keys: list[str]) -> None:
        # hashes have equal length, so that the time to compare does not even reveal the length of a key
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, file: Path | None) -> Keys:
        """Read keys from a file, one per line, and from the environment, separated by commas.

        Lines of the file that start with # are comments.

        Raises:
            InputError: the file cannot be read, the file or the variable holds no key, or a key is not printable ASCII
                without spaces.
        """
        found = []
        if (named := os.environ.get(ENVIRONMENT)) is not None:
            found += _strip(named.split(","), f"the variable {ENVIRONMENT}")
        if file is not None:
            try:
                lines = file.read_text("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError):
                raise InputError(f"{file}: not readable; a file of API keys, one per line, is expected") from None
            found += _strip([line for line in lines if not line.lstrip().startswith("#")], str(file))
        return cls(found)

    @property
    def demanded(self) -> bool:
        """Whether a request must show a key."""
        return bool(self._digests)

    def admit(self, authorization: str) -> bool:
        """Whether an Authorization header holds one of the keys: `Bearer KEY`."""
        if not self.demanded:
            return True
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        found = [hmac.compare_digest(digest, one) for one in self._digests]  # all, even after a match
        return scheme.lower() == "bearer" and any(found)


def _strip(keys: list[str], where: str) -> list[str]:
    found = [key.strip() for key in keys if key.strip()]
    if not found:
        raise InputError(f"{where} holds no key; leave it out to require none")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in found):
        raise InputError(f"{where} holds a key that is not printable ASCII without spaces, which a header cannot carry")
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
