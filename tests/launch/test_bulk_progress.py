"""How far a prediction is, as a log shows it and as a terminal does."""

from collections.abc import Callable

import pytest

from bertline.launch import bulk_progress
from bertline.launch.bulk_progress import BulkProgress
from bertline.serve.bulk import Seen


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What is told in a minute of a prediction that goes on at row 1,000 and answers 100 rows a second."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def shown() -> str:
        clock = [0.0]
        monkeypatch.setattr(bulk_progress, "monotonic", lambda: clock[0])
        with BulkProgress() as progress:
            progress.say("[a] line, as it is")
            for second in range(0, 61, 10):
                clock[0] = second
                progress.see(Seen(rows=1000 + 100 * second, done=40 + second, total=200))
        return capsys.readouterr().err

    return shown


def test_a_log_has_a_line_every_thirty_seconds(show: Callable[[], str]) -> None:
    assert show().splitlines() == [
        "[a] line, as it is",
        "4,000 rows  100 rows/s  35%  0:02:10 left",
        "7,000 rows  100 rows/s  50%  0:01:40 left",
    ]


def test_a_terminal_has_a_bar(show: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has no bars
    told = show()
    assert "[a] line, as it is\n" in told
    assert "7,000 rows  100 rows/s" in told
    assert "left" not in told


def test_where_nothing_is_done_no_time_is_promised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bulk_progress, "SELDOM", 0.0)
    BulkProgress().see(Seen(rows=0, done=0, total=0))
    assert capsys.readouterr().err == "0 rows  0 rows/s  0%  time left unknown\n"
