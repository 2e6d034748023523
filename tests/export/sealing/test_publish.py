"""A bundle pushed to a hub and downloaded again is the same bundle; the client is huggingface_hub itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import bundle as bundles
from bertline.artifacts import files
from bertline.serve.engine import Engine
from tests.export.sealing.hub import Hub, running

Sealed = tuple[Path, dict[str, Any], list[str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and an environment that knows it and nothing of this machine's user."""
    with running() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield hub


def push(folder: Path, repo: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The installed command: huggingface_hub reads its environment once, when it is imported."""
    command = [str(Path(sys.executable).with_name("bertline")), "push", str(folder), repo, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=600)


def test_all_of_a_bundle_goes_in_one_commit_and_comes_back(bundle: Sealed, hub: Hub, tmp_path: Path) -> None:
    done = push(bundle[0], "org/tiny", "--json")
    assert done.returncode == 0, done.stderr
    here = {entry.path: (bundle[0] / entry.path).read_bytes() for entry in files.listing(bundle[0])}
    assert {name: held for name, held in hub.repos["org/tiny"].items() if name != ".gitattributes"} == here
    assert [sorted(one) for one in hub.commits] == [
        sorted(f"{'lfsFile' if name.endswith('.onnx') else 'file'} {name}" for name in here)
    ]
    assert hub.private == {"org/tiny"}
    told = json.loads(done.stdout)
    assert told["commit"] == f"{hub.endpoint}/org/tiny/commit/{'0' * 39}1"
    assert {one["path"]: one["size_bytes"] for one in told["files"]} == {name: len(held) for name, held in here.items()}
    assert told["commit"] in done.stderr
    assert "Do not edit its files, not even README.md" in done.stderr

    (line,) = [line for line in (bundle[0] / "README.md").read_text().splitlines() if line.startswith("hf download")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    line = line.replace("ORG/NAME", "org/tiny").replace("NAME", "tiny")
    environment = {**os.environ, "PATH": path}
    subprocess.run(line, shell=True, check=True, capture_output=True, cwd=tmp_path, env=environment, timeout=600)
    assert len(Engine.load(tmp_path / "tiny").predict([("a film", None)])) == 1


def test_the_repository_becomes_the_bundle(bundle: Sealed, hub: Hub) -> None:
    hub.repos["org/tiny"] = {".gitattributes": b"", "bertline.json": b"{}", "vocab.txt": b"of another", "LICENSE": b""}
    assert push(bundle[0], "org/tiny").returncode == 0
    (commit,) = hub.commits
    assert {one for one in commit if one.startswith("deleted")} == {"deletedFile vocab.txt", "deletedFile LICENSE"}
    assert set(hub.repos["org/tiny"]) == {".gitattributes", *(entry.path for entry in files.listing(bundle[0]))}


def test_a_signature_goes_along(bundle: Sealed, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(bundle[0], tmp_path / "signed")
    (tmp_path / "signed" / bundles.SIGNATURE).write_text("{}")
    assert push(tmp_path / "signed", "org/tiny").returncode == 0
    assert hub.repos["org/tiny"][bundles.SIGNATURE] == b"{}"


def test_a_dry_run_asks_nothing_of_the_network(bundle: Sealed, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    done = push(bundle[0], "org/tiny", "--dry-run", "--json")
    assert (done.returncode, hub.repos) == (0, {})
    sizes = {entry.path: entry.size_bytes for entry in files.listing(bundle[0])}
    *lines, total, last = done.stderr.splitlines()
    assert [line.split() for line in lines] == [[f"{size:,}", name] for name, size in sizes.items()]
    assert total.split() == [f"{sum(sizes.values()):,}", "bytes", "in", str(len(sizes)), "files"]
    assert last == "org/tiny: nothing was sent"
    assert json.loads(done.stdout)["commit"] is None


@pytest.mark.parametrize(
    ("environment", "repo", "code", "told"),
    [
        ({"HF_TOKEN": ""}, "org/tiny", 2, "org/tiny: no token to write with: run hf auth login, or set HF_TOKEN"),
        ({"HF_TOKEN": "hf_wrong"}, "org/tiny", 1, "refused it: Invalid username or password."),
        ({}, "nobody/tiny", 1, 'refused it: You don\'t have the rights to create a model under the namespace "nobody"'),
        (
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "org/tiny",
            1,
            "org/tiny: not sent: http://127.0.0.1:9 was not reached",
        ),
        ({"HF_HUB_OFFLINE": "1"}, "org/tiny", 1, "was not reached: "),
        ({}, "org/other", 2, "org/other: holds model.safetensors but no bertline.json: not a bundle"),
    ],
)
def test_a_hub_that_does_not_take_it_is_told_in_a_line(
    bundle: Sealed,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    repo: str,
    code: int,
    told: str,
) -> None:
    hub.repos["org/other"] = {".gitattributes": b"", "README.md": b"", "model.safetensors": b""}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = push(bundle[0], repo)
    assert done.returncode == code, done.stderr
    *listed, said = done.stderr.splitlines()
    assert told in said
    assert all(line.startswith(" ") for line in listed)
    assert (hub.commits, done.stdout) == ([], "")


def test_a_damaged_bundle_does_not_go(bundle: Sealed, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(bundle[0], tmp_path / "damaged")
    (tmp_path / "damaged/config.json").write_text("{}")
    done = push(tmp_path / "damaged", "org/tiny")
    assert done.returncode == 1
    assert "config.json: 2 bytes where" in done.stderr
    assert hub.repos == {}
