"""What HTTP costs: a measurement that is none is told in a line."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bertline.benchmarks.serve import __main__ as command
from bertline.benchmarks.serve.clients import Clients, Outcome, goodput, percentile

NOBODY = "http://127.0.0.1:9"


def test_however_slow_a_bundle_is_one_request_is_offered() -> None:
    async def offer() -> list[Outcome]:
        async with Clients(NOBODY, ["a film"]) as clients:
            return await clients.offer(0.1, 3)

    assert [outcome.status for outcome in asyncio.run(offer())] == [0]


def test_where_nothing_was_answered_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [Outcome(503, 0.0, 0.1), Outcome(503, 0.0, 0.1), Outcome(0, 0.0, 0.1)]

    def measure(bundle: Path) -> dict[str, float]:
        return {"rate": goodput(outcomes), "p50": percentile(outcomes, 200, 0.5)}

    monkeypatch.setattr(command, "measure", measure)
    done = CliRunner().invoke(command.main, [str(tmp_path)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "no request was answered with 200, but 2 with 503, 1 with 0" in done.stderr


def test_a_bundle_that_takes_two_texts_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bertline.artifacts.bundle.read", lambda folder: SimpleNamespace(inputs=["question", "context"])
    )
    done = CliRunner().invoke(command.main, [str(tmp_path)])
    assert (done.exit_code, done.stderr) == (
        2, f"{tmp_path}: takes question and context; only bundles that take a single text can be measured\n"
    )  # fmt: skip
