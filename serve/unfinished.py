"""Progress of a bulk prediction, kept so that after a kill or a power cut no row is missing or repeated.

A hidden folder beside the output, `.NAME.unfinished`, holds

    answers.jsonl   a line for each answered row
    errors.jsonl    a line for each bad row
    journal.json    identity of input and bundle, the number of rows done, and the size of both files at that point
    lock            held by the running process

Beside the file of bad rows, `.NAME.lock` is held as well: two outputs may name the same one.

Every second, both files are synced to disk and then the journal is replaced by one rename; what the files hold beyond
the journal is cut off on resume.

Another input (path, size or modification time), even one that changes while it is read, and another bundle are refused:
mixing them would silently produce a wrong file, and starting over could throw away days of work because of a touched
file or a mistyped name. To start over, the user removes the folder, which the message names.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bertline.artifacts import files, tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.say import Say
from bertline.serve import formats

SECONDS = 1.0
"""Seconds between two saves: the most work a kill costs, beyond the rows in flight. A save takes milliseconds."""


class Identity(BaseModel):
    """The input, and the bundle that answers it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    size: int
    mtime_ns: int
    columns: dict[str, str] = {}
    """The input's column for each input of the task that has another name there."""
    bundle_sha256: str
    """SHA-256 of the bundle's manifest."""

    @classmethod
    def of(cls, source: Path, opened: int, bundle_sha256: str, columns: Mapping[str, str]) -> Identity:
        """Identify an opened file in its current state, its columns, and a bundle."""
        found = os.fstat(opened)
        return cls(
            input=_spell(source), size=found.st_size, mtime_ns=found.st_mtime_ns,
            columns=dict(columns), bundle_sha256=bundle_sha256,
        )  # fmt: skip


class Journal(BaseModel):
    """How far the prediction has come."""

    model_config = ConfigDict(extra="forbid")

    identity: Identity
    rows: int = 0
    """Rows of the input that are done, answered or bad."""
    bad: int = 0
    answers_bytes: int = 0
    errors_bytes: int = 0
    errors: str | None = None
    """Path of the file of bad rows."""
    ended: bool = False
    """Whether all rows are done, and the outputs are being made."""

    @property
    def told(self) -> str:
        """The number of rows done, in words."""
        return "1 row" if self.rows == 1 else f"{self.rows:,} rows"


class Unfinished:
    """The folder of an unfinished output; a context manager that holds its lock."""

    def __init__(
        self,
        target: Path,
        errors: Path | None,
        source: Path,
        bundle_sha256: str,
        say: Say,
        columns: Mapping[str, str] = {},
    ) -> None:
        """Open or create the folder; its journal then says what is done.

        Raises:
            InputError: an output exists, cannot be written, or is being written by another process; the source cannot
                be opened; or the folder belongs to another input or bundle.
        """
        self.target = target
        self.errors = errors
        self.folder = target.with_name(f".{target.name}.unfinished")
        files.refuse_existing(target)
        self._held = ExitStack()
        self._held.enter_context(_lock(self.folder / "lock", target))
        files.sync_entry(self.folder.parent)
        try:
            files.refuse_existing(target)  # again, now that no other process can make it
            self.raw = self._held.enter_context(tables.opened(source))
            """The bytes of the source; whoever reads them closes it."""
            self._source = os.dup(self.raw.fileno())  # the same file, even if its path now leads to another
            self._held.callback(os.close, self._source)
            self.journal = self._read(Identity.of(source, self._source, bundle_sha256, columns), say)
            self._set_errors(None if errors is None else _spell(errors))
            if errors is not None:
                self._refuse_existing(errors)
                self._held.enter_context(_reserve(errors))
                self._refuse_existing(errors)
            self._answers = _open_after(self.folder / "answers.jsonl", self.journal.answers_bytes)
            self._errors = _open_after(self.folder / "errors.jsonl", self.journal.errors_bytes)
        except BaseException:
            self._release(keep=(self.folder / "journal.json").exists())
            raise
        self._saved = monotonic()
        self._published = False

    def answer(self, answer: dict[str, Any]) -> None:
        """Record the answer to the next row."""
        self._done(answers_bytes=_append(self._answers, answer))

    def bad(self, fault: dict[str, Any]) -> None:
        """Record what is wrong with the next row."""
        self._done(errors_bytes=_append(self._errors, fault), bad=1)

    def kept(self) -> str:
        """Beginning of the advice when a bad row ends the command, if earlier rows are kept; ends before an option."""
        return (
            f"what was done before it ({self.journal.told}) is kept; the same command with "
            if self.journal.rows
            else ""
        )

    def end(self) -> None:
        """Publish the outputs, each by one rename; the folder is removed when the block is left.

        Raises:
            InputError: the input has changed meanwhile.
        """
        self._demand_unchanged()
        self.journal.ended = True
        self._save()
        if self.errors is not None:  # first: to a later call, existing answers mean that all is done
            self._refuse_existing(self.errors)
            with files.new_file(self.errors) as stream, (self.folder / "errors.jsonl").open("rb") as found:
                shutil.copyfileobj(found, stream)
        files.publish(formats.made(self.folder / "answers.jsonl", self.target), self.target)
        self._published = True

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        """Save what is done; remove the folder if that is nothing, or if it is published."""
        keep = self.journal.rows > 0 and not self._published
        try:
            with self._answers, self._errors:  # closing writes as well
                if keep and self.folder.exists():
                    self._save()
        except OSError:
            if kind is None:  # otherwise an error, such as a full disk, is already being raised; the last save is valid
                raise
        finally:
            self._release(keep)

    def _release(self, keep: bool) -> None:
        """Release the lock, and remove the folder unless it is to be kept."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)  # on NFS, what is open stays until it is closed
        self._held.close()
        if not keep:
            with suppress(OSError):  # gone already, or another process is at work in it
                self.folder.rmdir()

    def _read(self, identity: Identity, say: Say) -> Journal:
        path = self.folder / "journal.json"
        files.remove_left(path)
        if not path.exists():
            return Journal(identity=identity)
        try:
            journal = Journal.model_validate_json(path.read_bytes())
        except ValidationError:
            raise InputError(f"{path}: written by another version of bertline; {self._advice}") from None
        self._demand_same(journal, identity)
        for name, size in (("answers.jsonl", journal.answers_bytes), ("errors.jsonl", journal.errors_bytes)):
            if not (self.folder / name).is_file() or (self.folder / name).stat().st_size < size:
                raise InputError(f"{self.folder / name}: missing, or shorter than the journal says; {self._advice}")
        say(f"{self.target}: resuming after {journal.told}")
        return journal

    def _demand_same(self, journal: Journal, identity: Identity) -> None:
        """Raise InputError if the journal is about another input or another bundle."""
        if journal.identity != identity:
            raise InputError(f"{self.target}: {_difference(journal, identity)}; {self._advice}")

    def _demand_unchanged(self) -> None:
        """Raise InputError if the input has changed since it was opened: some rows may be read from either state."""
        stat = os.fstat(self._source)
        now = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        self._demand_same(self.journal, self.journal.identity.model_copy(update=now))

    @property
    def _advice(self) -> str:
        return f"remove {self.folder} to start over, or name another output"

    def _set_errors(self, errors: str | None) -> None:
        """Set the file of bad rows. Once there are bad rows one must be given, though any will do: the folder has all.

        Raises:
            InputError: there are bad rows, but no file for them.
        """
        journal = self.journal
        if journal.bad and errors is None:
            advice = f"pass that or another file, or remove {self.folder} to start over"
            raise InputError(f"{self.target}: {journal.told} done with --errors {journal.errors}; {advice}")
        journal.errors = errors

    def _refuse_existing(self, errors: Path) -> None:
        """Raise InputError if the file exists, unless an earlier call was killed right after writing it."""
        made = self.folder / "errors.jsonl"
        if not (self.journal.ended and errors.is_file() and filecmp.cmp(errors, made, shallow=False)):
            files.refuse_existing(errors)

    def _done(self, **more: int) -> None:
        """Count a row in one assignment: Ctrl-C between two counts would have it done again."""
        counts = {name: getattr(self.journal, name) + count for name, count in {"rows": 1, **more}.items()}
        self.journal = self.journal.model_copy(update=counts)
        if monotonic() - self._saved > SECONDS:
            self._demand_unchanged()  # not only at the end, which may be days later
            self._save()

    def _save(self) -> None:
        for stream in (self._answers, self._errors):
            stream.flush()
            os.fsync(stream.fileno())
        files.write_json(self.folder / "journal.json", self.journal.model_dump())
        self._saved = monotonic()


def _lock(lock: Path, path: Path) -> AbstractContextManager[IO[str]]:
    return files.locked(lock, f"{path}: another process is writing it; wait for it, or name another output")


@contextmanager
def _reserve(errors: Path) -> Iterator[None]:
    """Check that the file of bad rows can be written, and hold its lock: the end, maybe days later, would be too late.

    Raises:
        InputError: it cannot be written, or another process is writing it.
    """
    files.check_writable(errors)
    lock = errors.with_name(f".{errors.name}.lock")
    with _lock(lock, errors):
        yield
        lock.unlink(missing_ok=True)  # without file locks, another process may have removed it


def _spell(path: Path) -> str:
    """A path as the journal records it. Raises InputError if JSON cannot hold it."""
    whole = str(path.resolve())
    try:
        f"{path} {whole}".encode()  # bad rows quote it as it was given
    except UnicodeEncodeError:
        raise InputError(f"{path}: a name that is not UTF-8 cannot be recorded; rename it") from None
    return whole


def _open_after(path: Path, size: int) -> IO[bytes]:
    """Open a file to append to its first `size` bytes; the rest is cut off."""
    stream = path.open("ab")
    stream.truncate(size)
    return stream


def _append(stream: IO[bytes], value: dict[str, Any]) -> int:
    return stream.write(json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _difference(journal: Journal, identity: Identity) -> str:
    begun, rows = journal.identity, f"{journal.told} answered already"
    if begun.input != identity.input:
        return f"{rows}, but from another input, {begun.input}"
    if begun.bundle_sha256 != identity.bundle_sha256:
        return f"{rows}, but by another bundle"
    if begun.columns != identity.columns:
        return f"{rows}, but with {begun.columns or 'no'} --column"
    return f"{rows}, but {identity.input} has changed since"
