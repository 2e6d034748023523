"""Files that exist whole or not at all.

Every write goes to a temporary name beside its target, is synced to the disk and renamed. A folder appears by one
rename as well. Hashes are sha256.
"""

import fcntl
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

from bertline.artifacts.errors import DamagedError, InputError

_PART = r"(?:[^/\x00]*[^./\x00][^/\x00]*|\.{3,})"
"""Of a path: any name but . and .. (neither pydantic nor JSON Schema has a way to say it shorter)."""

TEMPORARY = re.compile("[a-z0-9_]{8}")
"""What `tempfile` ends a name with."""
LOCK = ".lock"
"""In a temporary folder, held by who writes there. A file: other machines do not see a lock on a folder over NFS."""
OF_HUBS = (".cache", ".gitattributes")
"""What is beside the files of a folder that a hub's client has downloaded."""
UMASK = os.umask(0o077)
"""Of this process, read once: to read it is to set it for a moment, in which another thread might make a file."""
os.umask(UMASK)


class FileEntry(BaseModel):
    """A regular file in a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: str = Field(pattern=f"^{_PART}(?:/{_PART})*$")
    """Path relative to the folder and within it, with forward slashes."""
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a stream to a temporary file that becomes `path` by one rename, or vanishes if the block raises.

    A reader sees the old file, if there was one, or the whole new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(path))
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _welcome_readers(temporary)  # mkstemp gives 0600
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_entry(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with new_file(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and tools alike: indented, non-ASCII kept, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` by one rename, or vanishes if the block raises.

    Raises:
        InputError: `path` exists already.
    """
    refuse_existing(path)
    with temporary_folder(path) as temporary:
        folder = temporary / path.name  # as it will be called: a signature tells the name of what it signs
        folder.mkdir()
        yield folder
        _welcome_readers(*folder.rglob("*"))
        publish(folder, path)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """As `new_folder`, for a folder that takes the place of one that may stand at `path`.

    A reader finds the old one or the new one, and none for the moment between two renames.
    """
    with temporary_folder(path) as temporary:
        (temporary / path.name).mkdir()
        yield temporary / path.name
        _welcome_readers(*temporary.rglob("*"))
        sync(temporary)
        if path.exists():
            path.rename(temporary / "old")
        (temporary / path.name).rename(path)
        sync_entry(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that `remove_left` knows, and lets alone while it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # under a name that `remove_left` does not know until it is held
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=temporary_prefix(path), suffix=".new"))
    try:
        with (temporary / LOCK).open("w") as lock:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            temporary = temporary.rename(temporary.with_suffix(""))
            yield temporary
    finally:  # the lock's file is closed: NFS would keep one that is open
        shutil.rmtree(temporary, ignore_errors=True)


def locked(lock: Path, taken: str) -> IO[str]:
    """Take a lock, which is of one process at a time, and is held until its file, which this is, is closed.

    Args:
        lock: a file of its own, made where it is not there, and left; its owner may remove it. One that is removed as
            it is taken is no lock, and is made anew.
        taken: what a person is told where another process holds it.

    Raises:
        InputError: another process does.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as opened:
            stream = opened.enter_context(lock.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(taken) from None
            except OSError:  # a disk without locks
                pass
            if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                opened.pop_all()
                return stream


def _welcome_readers(*paths: Path) -> None:
    """Let others read files, as those that open() makes: safetensors and onnx give theirs 0600."""
    for path in paths:
        if path.is_file():
            with suppress(PermissionError):  # a second name for a file of another user
                path.chmod(0o666 & ~UMASK)


def temporary_prefix(path: Path) -> str:
    """How the name of what is made beside `path`, to become it, begins: as nothing of a user's is called."""
    return f".{path.name}.bertline-"


def remove_left(path: Path) -> None:
    """Remove what writers of `path` left beside it when they were killed; of a file, none may be at work.

    While one is at work, folders that nobody holds stay: they may be what it has made so far, as `launch.shrink` does.
    """
    before = temporary_prefix(path)
    named = path.parent.glob(f"{glob.escape(before)}*")
    left = [one for one in named if TEMPORARY.fullmatch(one.name.removeprefix(before))]  # others are not held yet
    folders = [one for one in left if one.is_dir()]
    for one in left:
        if one not in folders:
            one.unlink(missing_ok=True)
    held = {one: _is_held(one) for one in folders}
    if True not in held.values():
        for one in folders:
            if held[one] is False:
                shutil.rmtree(one, ignore_errors=True)


def _is_held(temporary: Path) -> bool | None:
    """Whether a writer is at work in a temporary folder; None: on a disk without locks nobody knows."""
    try:
        with (temporary / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def remove_folder(path: Path) -> None:
    """Remove a folder at once for all that look at it: whole or not at all, as it appeared."""
    with temporary_folder(path) as temporary, suppress(FileNotFoundError):  # another process may be quicker
        path.rename(temporary / path.name)


def publish(folder: Path, path: Path) -> None:
    """Sync a folder with all that it holds, or a file, to the disk, then rename it to `path`, which must not exist."""
    sync(folder)
    refuse_existing(path)
    folder.rename(path)
    sync_entry(path.parent)


def sync(folder: Path) -> None:
    """Sync all that `folder` holds to the disk."""
    for entry in sorted(folder.rglob("*"), reverse=True):
        sync_entry(entry)
    sync_entry(folder)


def refuse_existing(path: Path) -> None:
    """Raise InputError if anything, a dangling link included, stands at `path`."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already and is left as it is; name another place, or remove it")


def check_new(path: Path) -> None:
    """Raise InputError where nothing new can be made at `path`: at the end of long work that would be late to learn."""
    refuse_existing(path)
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise InputError where nothing can be made at `path`, whatever stands there."""
    try:
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))  # others would be made
        with tempfile.NamedTemporaryFile(dir=folder, prefix=temporary_prefix(path), suffix=".new"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); name another place") from None


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing(folder: Path) -> list[FileEntry]:
    """Every regular file below `folder` with size and hash, sorted by path."""
    return [entry(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def entry(path: Path, folder: Path | None = None) -> FileEntry:
    """A file with size and hash, by its path in `folder`, which is by default its own."""
    name = path.relative_to(folder or path.parent).as_posix()
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256(path))


def compare(
    folder: Path, expected: Sequence[FileEntry], besides: Collection[str] = (), keep: Collection[str] = ()
) -> dict[str, bytes]:
    """Hold `folder` against the exact list of files it should have: first their set, then all sizes, then all hashes.

    Args:
        folder: of regular files.
        expected: what it should hold.
        besides: what else it does.
        keep: files whose content is wanted.

    Returns:
        The content of those files: the very bytes that were hashed, however the file changes from then on.

    Raises:
        DamagedError: the first file that is missing, not listed, a link, or of another size or content.
    """
    _compare_sets(folder, [entry.path for entry in expected], besides)
    for entry in expected:
        size = (folder / entry.path).stat().st_size
        if size != entry.size_bytes:
            raise DamagedError(f"{folder / entry.path}: {size:,} bytes where {entry.size_bytes:,} are recorded")
    kept = {}
    for entry in expected:
        path = folder / entry.path
        if entry.path in keep:
            kept[entry.path] = path.read_bytes()
        found = hashlib.sha256(kept[entry.path]).hexdigest() if entry.path in keep else sha256(path)
        if found != entry.sha256:
            raise DamagedError(f"{path}: its sha256 is not the one recorded")
    return kept


def _compare_sets(folder: Path, names: Sequence[str], besides: Collection[str]) -> None:
    if len(listed := set(names)) < len(names):
        raise DamagedError(f"{folder}: a file is listed twice among those that belong here")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    found = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            cached = ", and a hub's cache holds links: hf download ORG/NAME --local-dir FOLDER"
            raise DamagedError(
                f"{path}: a link or special file; only regular files belong here{cached * path.is_symlink()}"
            )
        if name not in folders if path.is_dir() else name not in listed and name not in besides:
            hubs = [str(folder / one) for one in OF_HUBS if (folder / one).exists()]
            added = f"; a hub's download adds it: rm -r {shlex.join(hubs)}" if name in OF_HUBS else ""
            raise DamagedError(f"{path}: not in the list of files that belong here{added}")
        found.add(name)
    for name in names:
        if name not in found:
            raise DamagedError(f"{folder / name}: missing")


def sync_entry(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
