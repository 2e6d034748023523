"""Files and folders appear whole or not at all."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest

from bertline.artifacts import files
from bertline.artifacts.errors import DamagedError, InputError


def fail(_: object) -> None:
    raise RuntimeError


def test_a_write_replaces_the_old_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.txt"
    files.write_text(path, "old")
    files.write_text(path, "neu ü")
    assert path.read_bytes() == "neu ü".encode()
    assert os.listdir(path.parent) == ["note.txt"]


def test_others_may_read_what_is_written_and_the_umask_is_let_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "umask", fail)  # it is of the whole process: other threads write meanwhile
    files.write_text(tmp_path / "note.txt", "")
    (tmp_path / "other.txt").touch()
    assert (tmp_path / "note.txt").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


@pytest.mark.parametrize("made", [files.new_folder, files.replaced_folder])
def test_others_may_read_what_a_library_keeps_to_itself(
    made: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    with made(tmp_path / "model") as folder:
        (folder / "onnx").mkdir()
        for name in ("weights", "onnx/weights"):
            (folder / name).touch(0o600)
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in [tmp_path / "other", *tmp_path.rglob("weights")]}
    assert len(modes) == 1


def test_what_gets_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    named: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    for move in (Path.rename, Path.replace):

        def moved(path: Path, target: Path, move: Callable[[Path, Path], Path] = move) -> Path:
            if target.name == "made":
                assert {one.stat().st_ino for one in (path, *path.rglob("*"))} <= synced
                named.append(target)
            return move(path, target)

        monkeypatch.setattr(Path, move.__name__, moved)
    files.write_text(tmp_path / "file/made", "x")
    for make, place in ((files.new_folder, "new"), (files.replaced_folder, "replaced")):
        with make(tmp_path / place / "made") as folder:
            (folder / "x").write_text("x")
    assert [path.parent.name for path in named] == ["file", "new", "replaced"]
    assert {path.parent.stat().st_ino for path in named} <= synced


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.new_file(path) as stream:
        fail(stream.write(b"half"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with files.new_folder(target) as folder:
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_bytes(b"model")
        assert not target.exists()
    assert (target / "onnx" / "model.onnx").read_bytes() == b"model"
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "bundle") as folder:
        fail((folder / "half").write_bytes(b"half"))
    assert os.listdir(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "best"
    for name in ("old", "new"):
        with files.replaced_folder(target) as folder:
            (folder / name).touch()
            assert not (target / name).exists()
    with pytest.raises(RuntimeError), files.replaced_folder(target) as folder:
        fail((folder / "half").write_text("half"))
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["best", "best/new"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mine, others = (
        "bertline-xyz_0123",
        [".a1.bertline-xyz_0123", ".a[1]", ".a[1].2.bertline-xyz_0123", ".a[1].original"],
    )
    for name in (f".a[1].{mine}", "a[1]", *others):
        (tmp_path / name).write_text("")
    (tmp_path / ".a[1].bertline-folder00/inner").mkdir(parents=True)
    files.remove_left(tmp_path / "a[1]")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "a[1]"]


def test_a_folder_is_removed_whole_and_by_whoever_is_quicker(tmp_path: Path) -> None:
    (tmp_path / "made/inner").mkdir(parents=True)
    for _ in range(2):
        files.remove_folder(tmp_path / "made")
        assert list(tmp_path.iterdir()) == []


@contextmanager
def at_work(path: Path) -> Iterator[Path]:
    """Another process makes a folder, and is killed with the block; yields its temporary one."""
    script = (
        "import pathlib, sys, time; from bertline.artifacts import files\n"
        "with files.new_folder(pathlib.Path(sys.argv[1])) as folder: print(folder.parent, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_a_killed_maker_left_goes_and_not_what_another_is_at_work_in(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with at_work(made) as theirs:
        files.remove_left(made)
        assert (theirs / "made").exists()
    files.remove_left(made)
    assert list(tmp_path.iterdir()) == []


def test_where_locks_tell_nothing_what_may_be_held_stays_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("held0000", "left0000"):
        (tmp_path / f".made.bertline-{name}").mkdir()
    (tmp_path / ".made.bertline-held0000/.lock").touch()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    files.remove_left(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == [".made.bertline-held0000"]


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_lock_is_of_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with files.locked(tmp_path / "deep/lock", "first"), pytest.raises(InputError, match="taken"):
            files.locked(tmp_path / "deep/lock", "taken")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with files.locked(tmp_path / "lock", "a disk without locks says nothing of others"):
        pass


def test_a_lock_that_its_owner_removes_as_another_takes_it_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = tmp_path / "folder/lock", []

    def removed(stream: IO[str], how: int) -> None:
        taken.append(stream)
        if len(taken) < 3:
            lock.unlink()
        if len(taken) < 2:
            lock.touch()

    monkeypatch.setattr(fcntl, "flock", removed)
    with files.locked(lock, "taken") as stream:
        assert os.path.samestat(os.fstat(stream.fileno()), lock.stat())
    assert len(taken) == 3
    assert all(one.closed for one in taken)


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already"), files.new_folder(tmp_path / "bundle"):
        pytest.fail("the block must not run")
    assert (tmp_path / "bundle" / "mine").read_text() == "mine"


def test_what_cannot_be_made_is_told_beforehand_and_what_can_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    files.check_new(tmp_path / "new/bundle")
    for name, why in (("file/new/bundle", "Not a directory"), ("x" * 250, "File name too long")):
        with pytest.raises(InputError, match=rf"cannot be made \({why}\); name another place"):
            files.check_new(tmp_path / name)
    with pytest.raises(InputError, match="exists already"):
        files.check_new(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"cannot be made \(No such file or directory\)"):
        files.check_new(tmp_path / "link/bundle")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("aaa")
    (tmp_path / "sub" / "b.txt").write_text("b")
    return tmp_path


def test_listing_knows_path_size_and_hash(folder: Path) -> None:
    entry, _ = files.listing(folder)
    # sha256 of "aaa", from sha256sum
    digest = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"
    assert (entry.path, entry.size_bytes, entry.sha256) == ("a.txt", 3, digest)


def test_a_folder_that_is_as_listed_passes(folder: Path) -> None:
    entries = files.listing(folder)
    assert [entry.path for entry in entries] == ["a.txt", "sub/b.txt"]
    files.compare(folder, entries)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "a.txt").write_text("aab"), "a.txt: its sha256"),
        (lambda folder: (folder / "a.txt").write_text("aaaa"), "a.txt: 4 bytes where 3"),
        (lambda folder: (folder / "sub" / "b.txt").unlink(), "b.txt: missing"),
        (lambda folder: (folder / "c.txt").write_text(""), "c.txt: not in the list"),
        (
            lambda folder: (folder / "c.txt").symlink_to("a.txt"),
            "c.txt: a link .*, and a hub's cache holds links: hf download ORG/NAME --local-dir FOLDER$",
        ),
        (lambda folder: (folder / "sub" / "c").mkdir(), "sub/c: not in the list"),
        (lambda folder: (folder / ".cache").mkdir(), r"/\.cache: .* a hub's download adds it: rm -r /\S+/\.cache$"),
        (lambda folder: (folder / ".gitattributes").touch(), r"a hub's download adds it: rm -r /\S+/\.gitattributes$"),
        (
            lambda folder: [(folder / ".cache").mkdir(), (folder / ".gitattributes").touch()],
            r"a hub's download adds it: rm -r /\S+/\.cache /\S+/\.gitattributes$",
        ),
    ],
)
def test_every_difference_is_found(folder: Path, damage: object, told: str) -> None:
    entries = files.listing(folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(DamagedError, match=told):
        files.compare(folder, entries)


def test_the_content_that_was_hashed_is_kept_where_it_is_wanted(folder: Path) -> None:
    assert files.compare(folder, files.listing(folder), keep=["sub/b.txt"]) == {"sub/b.txt": b"b"}
