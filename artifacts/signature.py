"""Signatures of bundles by OpenSSF's model-signing: model.sig signs every other file of the folder.

Keys are elliptic-curve keys (P-256, P-384 or P-521) in PEM; the network is not used. Anyone can also verify a bundle
with that project's own command: `model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key PUBLIC_KEY`.
The package is an extra, `bertline[sign]`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bertline.artifacts import bundle
from bertline.artifacts.bundle import MANIFEST, SIGNATURE
from bertline.artifacts.errors import DamagedError, InputError, first_line, install_advice, one_line

if TYPE_CHECKING:
    from model_signing.hashing import Config as Hashing

Sign = Callable[[Path], None]


def signer(private_key: Path) -> Sign:
    """Load a key for signing, so that a bad key is found before the long work whose result is signed.

    Args:
        private_key: an unencrypted PEM file.

    Returns:
        A function that writes model.sig into the folder it is given.

    Raises:
        InputError: the file holds no such key, or model-signing is not installed.
    """
    _need()
    from model_signing import signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        meant = "a private elliptic-curve key, in PEM and without a password"
        raise _no_key(private_key, meant, "openssl ecparam -genkey -name prime256v1 makes one", error) from None
    return lambda folder: config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)


def verify(folder: Path, public_key: Path) -> str:
    """Verify that the owner of a key signed exactly the files of a bundle.

    Returns:
        The sha256 of the signed manifest: a bundle loaded afterwards is the verified one if its manifest has this hash.

    Raises:
        InputError: `folder` is not a bundle, the file holds no such key, or model-signing is not installed.
        DamagedError: there is no signature, another key signed, or a file differs from what was signed.
    """
    bundle.demand(folder)
    _need()
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        advice = "openssl ec -in KEY -pubout makes one of a private key"
        raise _no_key(public_key, "a public elliptic-curve key, in PEM", advice, error) from None
    path = folder / SIGNATURE
    if not path.is_file():
        raise DamagedError(f"{folder}: not signed, it has no {SIGNATURE}; bertline export --sign KEY signs")
    try:
        content = path.read_bytes()
        with contextlib.redirect_stdout(sys.stderr):  # the library prints a warning
            config.set_hashing_config(_hashing()).verify(folder.resolve(), path)
        if path.read_bytes() != content:
            raise ValueError("it changed while it was read")
        covered = _covered(content)
    except Exception as error:  # untrusted input makes the library raise all kinds of errors; each means invalid
        reason = one_line(error) or type(error).__name__
        raise DamagedError(f"{path}: no valid signature by {public_key}: {reason}") from None
    if MANIFEST not in covered:
        raise DamagedError(f"{path}: does not cover {MANIFEST}")
    return covered[MANIFEST]


def demand_same(folder: Path, signed: str | None, loaded: str) -> None:
    """Raise DamagedError if the loaded manifest is not the signed one; None: no signature was required."""
    if signed not in (None, loaded):
        raise DamagedError(f"{folder}: it changed after its signature was verified")


def _hashing() -> Hashing:
    """Hash each file except the signature; a signature made with other settings is rejected."""
    from model_signing import hashing

    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _covered(content: bytes) -> dict[str, str]:
    """The files that a verified signature covers, with their sha256; the signer may have left files out."""
    payload = base64.b64decode(json.loads(content)["dsseEnvelope"]["payload"])
    return {resource["name"]: resource["digest"] for resource in json.loads(payload)["predicate"]["resources"]}


def _need() -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise InputError(f"signatures need model-signing; {install_advice('sign')}") from None


def _no_key(path: Path, meant: str, advice: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file; name one with {meant}")
    found = error.strerror if isinstance(error, OSError) else first_line(error)
    return InputError(f"{path}: not {meant} ({found}); {advice}")
