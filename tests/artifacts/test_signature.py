"""Signatures by model-signing: of the very files, by the very key, or no."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bertline.artifacts import bundle, signature
from bertline.artifacts.errors import DamagedError, InputError, install_advice
from bertline.launch.command import main
from tests.keys import write_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "mine")


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """What a signature takes for a bundle: nothing in it is read before it is found to be signed."""
    folder = tmp_path / "reviews"
    (folder / "onnx").mkdir(parents=True)
    (folder / bundle.MODEL).write_bytes(b"model")
    (folder / bundle.MANIFEST).write_text("{}")
    signature.signer(keys[0])(folder)
    return folder


def test_the_right_key_passes_wherever_the_folder_is(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    signature.verify(signed, keys[1])
    monkeypatch.chdir(signed.parent)
    (signed.parent / "latest").symlink_to("reviews")
    signature.verify(Path("latest"), keys[1])
    signed.rename(signed.with_name("moved"))
    monkeypatch.chdir("moved")
    signature.verify(Path("."), keys[1])


def test_another_key_does_not(signed: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path, "other")
    with pytest.raises(DamagedError, match=r"model.sig: no valid signature by .*other.pub: Key mismatch"):
        signature.verify(signed, other)


def forged(signed: Path) -> None:
    """Another file, with a signature that says so."""
    (signed / bundle.MODEL).write_bytes(b"m0del")
    content = json.loads((signed / bundle.SIGNATURE).read_text())
    payload = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][1]["digest"] = "0" * 64
    content["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    (signed / bundle.SIGNATURE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / bundle.MODEL).write_bytes(b"m0del"), "Hash mismatch for 'onnx/model.onnx'"),
        (lambda folder: (folder / bundle.MANIFEST).write_text("{ }"), "Hash mismatch for 'bertline.json'"),
        (lambda folder: (folder / bundle.MODEL).unlink(), "Missing files"),
        (lambda folder: (folder / ".gitignore").write_text(""), "Extra files found in model 'reviews': .gitignore"),
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "symlink"),
        (lambda folder: (folder / bundle.SIGNATURE).unlink(), "not signed, it has no model.sig"),
        (lambda folder: (folder / bundle.SIGNATURE).write_text("signed, really"), "no valid signature"),
        (lambda folder: (folder / bundle.SIGNATURE).write_text("{}"), "no valid signature"),
        (forged, "no valid signature by .*mine.pub: InvalidSignature"),
    ],
)
def test_what_was_not_signed_does_not_pass(
    signed: Path, keys: tuple[Path, Path], damage: Callable[[Path], None], told: str
) -> None:
    damage(signed)
    with pytest.raises(DamagedError, match=told) as caught:
        signature.verify(signed, keys[1])
    assert len(str(caught.value).splitlines()) == 1


def test_a_signature_that_leaves_the_manifest_out_does_not_pass(signed: Path, keys: tuple[Path, Path]) -> None:
    model_signing("sign", signed, "--private_key", keys[0], "--ignore-paths", signed / bundle.MANIFEST)
    with pytest.raises(DamagedError, match=r"does not cover bertline\.json"):
        signature.verify(signed, keys[1])


def test_the_command_of_model_signing_agrees(signed: Path, keys: tuple[Path, Path]) -> None:
    model_signing("verify", signed, "--public_key", keys[1])
    model_signing("sign", signed, "--private_key", keys[0])
    signature.verify(signed, keys[1])


def model_signing(what: str, folder: Path, *options: str | Path) -> None:
    command = Path(sys.executable).with_name("model_signing")
    line = [command, what, "key", folder, "--signature", folder / bundle.SIGNATURE, *options]
    subprocess.run(line, check=True, capture_output=True)


def test_keys_that_are_none_are_told(tmp_path: Path, signed: Path, keys: tuple[Path, Path]) -> None:
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(b"secret")
    wrong = {
        "encrypted": ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, private, secret),
        "rsa": rsa.generate_private_key(65537, 2048).private_bytes(pem, private, serialization.NoEncryption()),
        "curve": ec.generate_private_key(ec.SECP256K1()).private_bytes(pem, private, serialization.NoEncryption()),
        "public": keys[1].read_bytes(),
        "text": b"my key",
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
    for name in wrong:
        with pytest.raises(InputError, match=f"{name}: not a private elliptic-curve key, in PEM") as caught:
            signature.signer(tmp_path / name)
        assert len(caught.value.faults) == len(str(caught.value).splitlines()) == 1
    for path in (keys[0], tmp_path / "text"):
        with pytest.raises(InputError, match=f"{path}: not a public elliptic-curve key, in PEM"):
            signature.verify(signed, path)
    missing = tmp_path / "missing"
    for kind, ask in (
        ("private", lambda: signature.signer(missing)),
        ("public", lambda: signature.verify(signed, missing)),
    ):
        with pytest.raises(InputError, match=f"{missing}: no such file; name one with a {kind} elliptic-curve key"):
            ask()


@pytest.mark.parametrize("command", [("predict", "a text"), ("inspect",), ("bench",)])
def test_the_commands_demand_it_before_they_read_anything_else(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, command: tuple[str, ...]
) -> None:
    _, other = write_keys(tmp_path, "other")
    name, *texts = command
    result = CliRunner().invoke(main, [name, str(signed), *texts, "--trust", str(other)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no valid signature" in result.stderr
    result = CliRunner().invoke(main, [name, str(signed), *texts, "--trust", str(keys[1])])
    assert result.exit_code == 1
    assert "signed by the owner of" in result.stderr
    assert "bertline.json" in result.stderr  # which is no manifest: it is read now
    result = CliRunner().invoke(main, [name, str(tmp_path), *texts, "--trust", str(keys[1])])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "not a bundle" in result.stderr


def test_without_model_signing_one_line_says_what_to_install(signed: Path, keys: tuple[Path, Path]) -> None:
    hidden = "import sys; sys.modules['model_signing'] = None\n"
    script = f"{hidden}from bertline.launch.command import main; main()"
    line = [sys.executable, "-c", script, "inspect", str(signed), "--trust", str(keys[1])]
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr == f"signatures need model-signing; {install_advice('sign')}\n"
