"""What is printed without a terminal; the live bar itself is rich's."""

from types import SimpleNamespace

import pytest

from bertline.train.progress import Progress


def test_plain_lines_go_to_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertline.train.progress.time", SimpleNamespace(monotonic=iter([0.0, 3.0]).__next__))
    progress = Progress(speaks=True)
    with progress.training(0, 4):
        progress.step(1, 0.5, 1000.0, log=False)
        progress.step(2, 0.4, 1234.5, log=True)
        assert list(progress.track([1, 2, 3], 3, "validation")) == [1, 2, 3]
    progress.say("[done] at 100%")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("step 2/4  loss 0.4000  1,234 tokens/s  0:00:03 left")
    assert err.splitlines()[-1] == "[done] at 100%"


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(speaks=False)
    with progress.training(0, 4):
        progress.step(2, 0.4, 1234.5, log=True)
    progress.say("done")
    assert capsys.readouterr() == ("", "")
