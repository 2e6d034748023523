"""Files that exist whole or not at all.

Every file is written under a temporary name beside its target, synced to disk and renamed; so is every folder. Hashes
are sha256.
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
"""Pattern of a path component: any name except . and .. (pydantic and JSON Schema have no shorter form for it)."""

TEMPORARY = re.compile("[a-z0-9_]{8}")
"""The random part of a name that `tempfile` makes."""
LOCK = ".lock"
"""Lock file in a temporary folder, held by its writer. A file, since NFS does not share locks on folders."""
OF_HUBS = (".cache", ".gitattributes")
"""What a hub's client adds to a folder that it downloads."""
UMASK = os.umask(0o077)
"""The process's umask, read once: reading it changes it for a moment, in which another thread might create a file."""
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
    """Yield a stream to a temporary file that is renamed to `path` at the end, or removed if the block raises.

    Readers see the old file, if any, or the complete new one.
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
    """Write UTF-8 text atomically, with line endings as given."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and tools atomically: indented, non-ASCII characters kept, NaN rejected."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` at the end, or removed if the block raises.

    Raises:
        InputError: `path` exists already.
    """
    refuse_existing(path)
    with temporary_folder(path) as temporary:
        folder = temporary / path.name  # its final name, since a signature holds the name of the folder it signs
        folder.mkdir()
        yield folder
        _welcome_readers(*folder.rglob("*"))
        publish(folder, path)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Like `new_folder`, but replaces a folder that may exist at `path`.

    Readers find the old or the new folder, or none for the moment between two renames.
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
    """Yield a temporary folder beside `path`, which `remove_left` removes only once its lock is released."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # under a name that `remove_left` ignores until the lock is held
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=temporary_prefix(path), suffix=".new"))
    try:
        with (temporary / LOCK).open("w") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            temporary = temporary.rename(temporary.with_suffix(""))
            yield temporary
    finally:  # the lock file is closed by now: NFS would keep an open one
        shutil.rmtree(temporary, ignore_errors=True)


def locked(lock: Path, taken: str) -> IO[str]:
    """Take an exclusive lock between processes; it is held until the returned file is closed.

    Args:
        lock: the lock file, created if missing and left in place; its holder may remove it. If that happens while the
            lock is taken, the file is created again.
        taken: the error message if another process holds the lock.

    Raises:
        InputError: another process holds the lock.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as opened:
            stream = opened.enter_context(lock.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(taken) from None
            except OSError:  # a file system without locks
                pass
            if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                opened.pop_all()
                return stream


def _welcome_readers(*paths: Path) -> None:
    """Give files the permissions that open() would give them: safetensors and onnx create theirs with 0600."""
    for path in paths:
        if path.is_file():
            with suppress(PermissionError):  # a hard link to another user's file
                path.chmod(0o666 & ~UMASK)


def temporary_prefix(path: Path) -> str:
    """The prefix of temporary files and folders for `path`; no user's file is named like that."""
    return f".{path.name}.bertline-"


def remove_left(path: Path) -> None:
    """Remove what killed writers of `path` left beside it. If `path` is a file, no writer may be active.

    While any writer is active, folders that are not locked stay too: they may be its output, as in `launch.shrink`.
    """
    before = temporary_prefix(path)
    named = path.parent.glob(f"{glob.escape(before)}*")
    left = [one for one in named if TEMPORARY.fullmatch(one.name.removeprefix(before))]  # others are not locked yet
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
    """Whether a writer is active in a temporary folder; None: unknown, since the file system has no locks."""
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
    """Remove a folder atomically: readers see all of it or nothing."""
    with temporary_folder(path) as temporary, suppress(FileNotFoundError):  # another process may have removed it
        path.rename(temporary / path.name)


def publish(folder: Path, path: Path) -> None:
    """Sync a file, or a folder and its content, to disk, then rename it to `path`, which must not exist."""
    sync(folder)
    refuse_existing(path)
    folder.rename(path)
    sync_entry(path.parent)


def sync(folder: Path) -> None:
    """Sync a folder and all its content to disk."""
    for entry in sorted(folder.rglob("*"), reverse=True):
        sync_entry(entry)
    sync_entry(folder)


def refuse_existing(path: Path) -> None:
    """Raise InputError if anything exists at `path`, a dangling link included."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already and is left as it is; name another place, or remove it")


def check_new(path: Path) -> None:
    """Raise InputError if nothing new can be created at `path`; to be called before long work, not after it."""
    refuse_existing(path)
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise InputError if nothing can be created at `path`, whether or not it exists."""
    try:
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))  # the rest is created
        with tempfile.NamedTemporaryFile(dir=folder, prefix=temporary_prefix(path), suffix=".new"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); name another place") from None


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing(folder: Path) -> list[FileEntry]:
    """Entries of every regular file below `folder`, sorted by path."""
    return [entry(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def entry(path: Path, folder: Path | None = None) -> FileEntry:
    """The entry of a file, with its path relative to `folder` (by default, the folder it is in)."""
    name = path.relative_to(folder or path.parent).as_posix()
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256(path))


def compare(
    folder: Path, expected: Sequence[FileEntry], besides: Collection[str] = (), keep: Collection[str] = ()
) -> dict[str, bytes]:
    """Check `folder` against the exact list of files it should hold: first the set, then all sizes, then all hashes.

    Args:
        folder: the folder to check.
        expected: the files it should hold.
        besides: other files that may exist; they are not checked.
        keep: files whose content is returned.

    Returns:
        The content of the files in `keep`: the same bytes that were hashed, even if the file changes later.

    Raises:
        DamagedError: names the first file that is missing, not listed, a link, or of another size or content.
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
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
