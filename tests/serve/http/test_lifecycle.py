"""A server's life: it starts, its bundles are swapped, it is told to end; no request that it took is lost."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from time import perf_counter, sleep

import pytest

from bertline.artifacts import bundle, files, signature
from bertline.artifacts.errors import DamagedError
from bertline.launch.benchmarks.serve.clients import Clients, Outcome
from bertline.launch.benchmarks.serve.serving import Serving, serving
from bertline.serve.http.limits import Limits
from bertline.serve.http.shelf import Shelf
from bertline.serve.lanes import Lanes
from tests.keys import write_keys

SECONDS = [2, pytest.param(20, marks=pytest.mark.load)]

LOADING = """
import threading
from bertline.launch.command import main
from bertline.serve.http import shelf
from bertline.serve.http.logs import LOGGER

class Endless(shelf.Shelf):
    def reload(self):
        if hasattr(self, "entries"):
            LOGGER.info("loading")
            threading.Event().wait()
        super().reload()

shelf.Shelf = Endless
main()
"""
"""A server that never ends loading its bundles a second time."""


def rename(folder: Path, name: str) -> None:
    """Another bundle of the same files: its manifest says another name."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    files.write_json(folder / bundle.MANIFEST, manifest | {"name": name})


def signed(folder: Path, beside: Path) -> tuple[Path, Path]:
    """Sign a bundle; its public key, and a bundle that was changed since."""
    private, public = write_keys(beside, "mine")
    signature.signer(private)(folder)
    other = Path(shutil.copytree(folder, beside / "other"))
    rename(other, "of somebody else")
    return public, other


def version(server: Serving) -> str:
    with urllib.request.urlopen(f"{server.url}/models", timeout=10) as answer:
        return str(json.load(answer)[0]["version"])


async def under_load(server: Serving, seconds: float, action: object) -> list[Outcome]:
    """What eight clients saw while something was done."""
    async with Clients(server.url, ["the film was good"]) as clients:
        asking = asyncio.ensure_future(clients.loop(8, seconds))
        await asyncio.to_thread(action)  # type: ignore[arg-type]
        return await asking


@pytest.mark.parametrize("seconds", SECONDS)
def test_swaps_lose_no_request(tiny_bundle: Path, seconds: float) -> None:
    with serving(tiny_bundle) as server:
        seen = {version(server)}

        def swap() -> None:
            end, number = perf_counter() + seconds - 1, 0
            while perf_counter() < end:
                number += 1
                rename(tiny_bundle, f"swapped-{number}")
                server.process.send_signal(signal.SIGHUP)
                sleep(0.4)
                seen.add(version(server))

        outcomes = asyncio.run(under_load(server, seconds, swap))
        assert {one.status for one in outcomes} == {200}
        assert len(outcomes) > 100
        assert len(seen) > 2
        assert server.end() == 0


def test_a_damaged_bundle_is_not_swapped_in(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as server:
        before = version(server)
        path = tiny_bundle / bundle.MODEL
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        server.process.send_signal(signal.SIGHUP)
        told = _wait_for(server, "not swapped: the bundles that were loaded go on")
        assert "its sha256 is not the one recorded" in told["why"]
        assert version(server) == before
        outcomes = asyncio.run(under_load(server, 0.5, lambda: None))
        assert {one.status for one in outcomes} == {200}


def test_a_bundle_of_somebody_else_is_not_swapped_in(tiny_bundle: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "mine")
    signature.signer(private)(tiny_bundle)
    with serving(tiny_bundle, "--trust", public) as server:
        before = version(server)
        rename(tiny_bundle, "of somebody else")
        server.process.send_signal(signal.SIGHUP)
        told = _wait_for(server, "not swapped: the bundles that were loaded go on")
        assert f"no valid signature by {public}" in told["why"]
        assert version(server) == before


def test_a_link_that_is_turned_while_bundles_are_loaded_turns_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded is what was verified, and is called as the link."""
    public, other = signed(tiny_bundle, tmp_path)
    (tmp_path / "demo").symlink_to(tiny_bundle)
    verify = signature.verify

    def turned(folder: Path, public_key: Path) -> str:
        found = verify(folder, public_key)
        (tmp_path / "demo").unlink()
        (tmp_path / "demo").symlink_to(other)
        return found

    monkeypatch.setattr(signature, "verify", turned)
    shelf = Shelf([tmp_path / "demo"], Lanes(1), Limits(), public)
    shelf.lanes.close()
    assert (shelf.first.name, shelf.first.manifest.name) == ("demo", "tiny")
    assert shelf.first.version == files.sha256(tiny_bundle / bundle.MANIFEST)[:12]


def test_a_folder_that_takes_the_place_of_a_verified_one_is_not_loaded(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, other = signed(tiny_bundle, tmp_path)
    verify = signature.verify

    def replaced(folder: Path, public_key: Path) -> str:
        found = verify(folder, public_key)
        folder.rename(tmp_path / "before")
        other.rename(folder)
        return found

    monkeypatch.setattr(signature, "verify", replaced)
    with pytest.raises(DamagedError, match="not the bundle any more whose signature was verified"):
        Shelf([tiny_bundle], Lanes(1), Limits(), public)


def test_an_end_under_load_loses_no_request_that_was_taken(slow_bundle: Path) -> None:
    with serving(slow_bundle) as server:

        async def ask() -> list[Outcome]:
            async with Clients(server.url, ["the film was good " * 8]) as clients:
                await clients.ask()
                taken = [asyncio.ensure_future(clients.ask()) for _ in range(30)]
                await asyncio.sleep(0.15)
                server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                late = await clients.ask()
                return [*await asyncio.gather(*taken), late]

        *taken, late = asyncio.run(ask())
        assert [one.status for one in taken] == [200] * 30
        assert late.status == 0
        assert server.process.wait(30) == 0
        assert server.lines("ended")


def test_an_end_does_not_wait_for_bundles_that_are_being_loaded(sealed: Path, tmp_path: Path) -> None:
    script = tmp_path / "loading.py"
    script.write_text(LOADING)
    with serving(sealed, script=script) as server:
        server.process.send_signal(signal.SIGHUP)
        _wait_for(server, "loading")
        assert server.end() == 0
        assert server.lines("ended")


def test_signals_are_heard_while_bundles_are_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    several = [shutil.copytree(tiny_bundle, tmp_path / f"bundle-{number}") for number in range(8)]  # one is too quick
    command = [str(Path(sys.executable).with_name("bertline")), "serve", "--port", "0", *map(str, several)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not _signals(process.pid, "SigIgn") & 1 << (signal.SIGHUP - 1):
                assert process.poll() is None
                assert not _signals(process.pid, "SigCgt") & 1 << (signal.SIGHUP - 1), "it listens already"
                sleep(0.01)
            process.send_signal(signal.SIGHUP)
            sleep(0.05)
            assert _signals(process.pid, "SigCgt") & 1 << (signal.SIGTERM - 1)  # by default PID 1 would not hear it
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
            assert (process.returncode, said) == (0, "")
        finally:
            process.kill()


def _signals(pid: int, kind: str) -> int:
    """Those that a process catches or ignores, as bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(kind))


def test_several_bundles_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    with serving(tiny_bundle, other) as server, urllib.request.urlopen(f"{server.url}/models", timeout=10) as answer:
        assert [one["name"] for one in json.load(answer)] == ["bundle", "other"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{bundle}", "{bundle}"], "two bundles are called 'bundle'"),
        (["{bundle}", "--limit", "text=3", "--limit", "texts=many"], "no such limit; there are body_bytes, texts"),
        (["{bundle}", "--host", "192.0.2.1"], "192.0.2.1:0 cannot be listened on"),
        (["{bundle}", "--host", "here..there"], "here..there:0 cannot be listened on"),
        (["{bundle}", "--api-keys", "{bundle}/config.jso"], "not readable; a file of API keys"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(tiny_bundle: Path, arguments: list[str], words: str) -> None:
    command = [str(Path(sys.executable).with_name("bertline")), "serve", "--port", "0"]
    given = [argument.replace("{bundle}", str(tiny_bundle)) for argument in arguments]
    done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def _wait_for(server: Serving, message: str) -> dict[str, str]:
    for _ in range(100):
        if found := server.lines(message):
            return found[0]
        sleep(0.1)
    raise AssertionError(server.log.read_text())
