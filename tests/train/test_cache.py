"""The cache holds each thing once, complete, under a name that depends on everything it is made of."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from bertline.artifacts import files, machine
from bertline.artifacts.errors import InputError
from bertline.train import cache
from bertline.train.cache import make_once
from tests.artifacts.test_files import at_work


def test_a_name_is_of_all_that_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(kind: str = "data", seed: int = 1) -> Path:
        return cache.place(tmp_path, kind, {"seed": seed})

    before = named()
    assert before.parent == tmp_path
    assert before.name.startswith("data-")
    assert before == named()
    names = {before, named("student"), named(seed=2)}
    with monkeypatch.context() as patched:
        patched.setattr(machine, "versions", lambda *packages: dict.fromkeys(packages, "another"))
        names.add(named())
    monkeypatch.setattr(files, "sha256", lambda path: "another" if path.name == "splitting.py" else "same")
    names.add(named())
    monkeypatch.setattr(files, "sha256", lambda path: "same")
    assert len({*names, named()}) == 6


def test_it_is_filled_once(tmp_path: Path) -> None:
    filled: list[Path] = []
    for _ in range(2):
        assert make_once(tmp_path / "cache/made", filled.append) == tmp_path / "cache/made"
    assert len(filled) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {".gitignore", "made"}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")]
)
def test_where_there_is_no_room_nothing_is_left_and_it_is_told(tmp_path: Path, error: Exception) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    with pytest.raises(InputError, match=r"made: could not be written \(.*No space left on device\); make room, or na"):
        make_once(tmp_path / "made", fill)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_what_a_killed_maker_left_goes_and_not_what_another_is_at_work_in(tmp_path: Path) -> None:
    fill: Callable[[Path], Any] = Path.exists
    with at_work(tmp_path / "made") as theirs:
        make_once(tmp_path / "made", fill)
        assert (theirs / "made").exists()
    (tmp_path / "made").rmdir()
    make_once(tmp_path / "made", fill)
    assert {path.name for path in tmp_path.iterdir()} == {".gitignore", "made"}


@pytest.mark.parametrize("looks", [True, False])  # the other is noticed just before the rename, or only by it
def test_what_another_makes_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
    def fill(folder: Path) -> None:
        (folder / "same").write_text("mine")
        (tmp_path / "made").mkdir()
        (tmp_path / "made/same").write_text("another's")

    if not looks:
        monkeypatch.setattr(files, "refuse_existing", lambda path: None)
    make_once(tmp_path / "made", fill)
    assert {path.name for path in tmp_path.iterdir()} == {".gitignore", "made"}
    assert (tmp_path / "made/same").read_text() == "another's"
