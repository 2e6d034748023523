"""Keys to sign with, made on the spot."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bertline.artifacts import signature


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key, as `openssl ecparam -genkey` and `openssl ec -pubout` make them."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def exchange_once_verified(monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    """As a folder's signature has been verified, another takes its place."""
    verify = signature.verify

    def exchanging(folder: Path, public_key: Path) -> str:
        found = verify(folder, public_key)
        folder.rename(folder.with_name("before"))
        other.rename(folder)
        return found

    monkeypatch.setattr(signature, "verify", exchanging)
