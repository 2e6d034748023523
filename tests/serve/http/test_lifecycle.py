"""A server's life: it starts, its bundles are swapped, it is told to end; no request that it took is lost."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from bertline.artifacts import bundle, files, signature
from bertline.artifacts.errors import DamagedError
from bertline.benchmarks.serve.clients import Clients, Outcome
from bertline.benchmarks.serve.serving import Serving, serving
from bertline.serve.engine import Bundle
from bertline.serve.http import server as servers
from bertline.serve.http import shelf as shelves
from bertline.serve.http.limits import Limits
from bertline.serve.http.shelf import Shelf
from bertline.serve.lanes import Lanes
from tests.keys import exchange_once_verified, write_keys
from tests.serve.http.watching import metrics
from tests.waiting import wait_for

NOT_SWAPPED = "reload failed: the loaded bundles stay in service"
SWAPS = [3, pytest.param(50, marks=pytest.mark.load)]

LOADING = """
import threading
from bertline.launch.command import main
from bertline.serve.http import shelf
from bertline.serve.http.logs import LOGGER

class Endless(shelf.Shelf):
    def reload(self):
        if {when}:
            LOGGER.info("loading")
            threading.Event().wait()
        super().reload()

shelf.Shelf = Endless
main()
"""
"""A server that never ends loading its bundles."""

COUNTING = """
import os
import sys
from bertline.launch.command import main
from bertline.serve.http import server

server.Lanes = lambda count: sys.exit(f"{count} lanes, tokenizers: {os.environ['TOKENIZERS_PARALLELISM']}")
main()
"""


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


async def under_load(server: Serving, action: Callable[[], object]) -> list[Outcome]:
    """What eight clients saw while something was done."""
    async with Clients(server.url, ["the film was good"]) as clients:
        acting = asyncio.ensure_future(asyncio.to_thread(action))

        async def one() -> list[Outcome]:
            return [await clients.ask() for _ in iter(acting.done, True)]

        found = await asyncio.gather(*(one() for _ in range(8)))
        await acting
        return [outcome for outcomes in found for outcome in outcomes]


@pytest.mark.parametrize("swaps", SWAPS)
def test_swaps_lose_no_request(tiny_bundle: Path, swaps: int) -> None:
    with serving(tiny_bundle) as server:
        seen = {version(server)}

        def swap() -> None:
            for number in range(swaps):
                rename(tiny_bundle, f"swapped-{number}")
                server.process.send_signal(signal.SIGHUP)
                wait_for(lambda: version(server) not in seen)
                seen.add(version(server))

        outcomes = asyncio.run(under_load(server, swap))
        assert {one.status for one in outcomes} == {200}
        assert len(outcomes) > 20 * swaps
        assert server.end() == 0


def test_a_damaged_bundle_is_not_swapped_in(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as server:
        before = version(server)
        path = tiny_bundle / bundle.MODEL
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: bool(server.lines(NOT_SWAPPED)))
        (told,) = server.lines(NOT_SWAPPED)
        assert "its sha256 is not the one recorded" in told["why"]
        assert version(server) == before
        outcomes = asyncio.run(under_load(server, lambda: sleep(0.5)))
        assert {one.status for one in outcomes} == {200}


def test_a_bundle_of_somebody_else_is_not_swapped_in(tiny_bundle: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "mine")
    signature.signer(private)(tiny_bundle)
    with serving(tiny_bundle, "--trust", public) as server:
        before = version(server)
        rename(tiny_bundle, "of somebody else")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: bool(server.lines(NOT_SWAPPED)))
        (told,) = server.lines(NOT_SWAPPED)
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
    exchange_once_verified(monkeypatch, other)
    with pytest.raises(DamagedError, match="it changed after its signature was verified"):
        Shelf([tiny_bundle], Lanes(1), Limits(), public)


def test_of_several_bundles_only_one_at_a_time_is_in_memory_twice(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    made: list[Bundle] = []

    class Watched(Bundle):
        def __init__(self, *given: Any) -> None:
            assert not [one for one in made if hasattr(one, "_content")]
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(shelves, "Bundle", Watched)
    shelf = Shelf([tiny_bundle, other], Lanes(1), Limits())
    before = shelf.entries
    assert [*before] == ["bundle", "other"]
    (other / bundle.MODEL).write_bytes(b"damaged")
    with pytest.raises(DamagedError):
        shelf.reload()
    shelf.lanes.close()
    assert (len(made), shelf.entries is before) == (3, True)


def test_signals_that_come_while_bundles_are_loaded_load_them_once_more() -> None:
    asked, begun, go = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def reload() -> None:
        begun.release()
        assert go.acquire(timeout=60)

    shelf: Any = SimpleNamespace(reload=reload, entries={})
    threading.Thread(target=servers._swap_when_asked, args=(shelf, asked), daemon=True).start()
    asked.set()
    assert begun.acquire(timeout=60)
    for _ in range(3):
        asked.set()
    go.release()
    assert begun.acquire(timeout=60)
    assert not asked.is_set()


@pytest.mark.parametrize(("seconds", "grace"), [(5.0, 30), (24.0, 30), (24.5, 31), (120.0, 126)])
def test_an_end_waits_for_as_long_as_a_request_may_take(seconds: float, grace: int) -> None:
    assert servers._grace(Limits(seconds=seconds)) == grace


def test_an_end_under_load_loses_no_request_that_was_taken(slow_bundle: Path) -> None:
    with serving(slow_bundle, "--threads", "2", "--limit", "seconds=120") as server:
        place = urlsplit(server.url)

        def all_are_taken() -> bool:
            found = metrics(server)
            done = found.get("bertline_requests_total bundle POST / 200", 0)
            return done >= 2 and found["bertline_queue_texts"] + done >= 58  # two are being computed

        def takes_no_more() -> bool:
            with suppress(ConnectionRefusedError), socket.create_connection((place.hostname, place.port), timeout=20):
                return False
            return True

        async def ask() -> list[Outcome]:
            async with Clients(server.url, ["the film was good " * 8]) as clients:
                taken = [asyncio.ensure_future(clients.ask()) for _ in range(60)]
                await asyncio.to_thread(wait_for, all_are_taken)
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(wait_for, takes_no_more)
                assert not all(one.done() for one in taken)
                return await asyncio.gather(*taken)

        assert [one.status for one in asyncio.run(ask())] == [200] * 60
        assert server.process.wait(60) == 0
        assert server.lines("ended")


def test_an_end_does_not_wait_for_bundles_that_are_being_loaded(sealed: Path, tmp_path: Path) -> None:
    script = tmp_path / "loading.py"
    script.write_text(LOADING.format(when="hasattr(self, 'entries')"))
    with serving(sealed, script=script) as server:
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: bool(server.lines("loading")))
        assert server.end() == 0
        assert server.lines("ended")


def test_signals_are_heard_while_bundles_are_loaded(sealed: Path, tmp_path: Path) -> None:
    script = tmp_path / "loading.py"
    script.write_text(LOADING.format(when="True"))
    with subprocess.Popen([sys.executable, script, "serve", "--port", "0", sealed], stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert json.loads(process.stderr.readline())["message"] == "loading"
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)  # by default PID 1, of a container, would not hear it
            _, said = process.communicate(timeout=60)
            assert (process.returncode, said) == (0, b"")
        finally:
            process.kill()


def test_several_bundles_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    with serving(tiny_bundle, other) as server, urllib.request.urlopen(f"{server.url}/models", timeout=10) as answer:
        assert [one["name"] for one in json.load(answer)] == ["bundle", "other"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{bundle}", "{bundle}"], "two bundles are named 'bundle'"),
        (["{bundle}/.."], "a name of letters, digits and ._-, not '..'"),
        (["{bundle}", "--cors", "https://example.org/"], "https://example.org/: not a site as browsers spell it"),
        (["{bundle}", "--limit", "text=3", "--limit", "texts=many"], "no such limit; there are body_bytes, texts"),
        (["{bundle}", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
        (["{bundle}", "--host", "here..there"], "cannot listen on here..there:0"),
        (["{bundle}", "--api-keys", "{bundle}/config.jso"], "not readable; a file of API keys"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(tiny_bundle: Path, arguments: list[str], words: str) -> None:
    command = [str(Path(sys.executable).with_name("bertline")), "serve", "--port", "0"]
    given = [argument.replace("{bundle}", str(tiny_bundle)) for argument in arguments]
    done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_as_many_lanes_as_threads_were_asked_for(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    command = [sys.executable, "-c", COUNTING, "serve", str(sealed), "--port", "0", "--threads", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "3 lanes, tokenizers: false\n"
