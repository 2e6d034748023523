"""What a bulk prediction has done so far, so that a kill or a power cut at any moment neither loses nor repeats a row.

A hidden folder beside the output, `.NAME.unfinished`, holds

    answers.jsonl   a line for each row that was answered
    errors.jsonl    a line for each bad row
    journal.json    what is being answered by what, how many rows are done, and how long the two files then were
    lock            held by the process at work

Beside the file of bad rows, `.NAME.lock` is held as well: two outputs may name the same one.

In steps both files are synced to the disk and then the journal is replaced by one rename; whatever the files hold
beyond it is cut off when the next call goes on.

Rows of another input (path, size or time of its last change), be it changed while it is read, or answers of another
bundle, are refused: to join them would give a file that is wrong without a word, and to start anew would throw away
what may have taken days, over a touched file or a mistyped name. Who wants that removes the folder, which the message
names.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bertline.artifacts import files, tables
from bertline.artifacts.errors import InputError
from bertline.serve import formats

SECONDS = 1.0
"""Between two steps: what a kill costs at most, beyond the rows under way. A step takes milliseconds."""


class Identity(BaseModel):
    """What is answered by what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    size: int
    mtime_ns: int
    columns: dict[str, str] = {}
    """Its names of what is answered, where they are others than ours."""
    bundle_sha256: str
    """Of its manifest."""

    @classmethod
    def of(cls, source: Path, opened: int, bundle_sha256: str, columns: Mapping[str, str]) -> Identity:
        """The identity of the columns of a file, opened, as it is now and of a bundle."""
        found = os.fstat(opened)
        return cls(
            input=_spell(source), size=found.st_size, mtime_ns=found.st_mtime_ns,
            columns=dict(columns), bundle_sha256=bundle_sha256,
        )  # fmt: skip


class Journal(BaseModel):
    """How far it is."""

    model_config = ConfigDict(extra="forbid")

    identity: Identity
    rows: int = 0
    """Of the input: answered or bad."""
    bad: int = 0
    answers_bytes: int = 0
    errors_bytes: int = 0
    errors: str | None = None
    """Where bad rows are to be told."""
    ended: bool = False
    """All rows are done; the outputs are being made."""

    @property
    def told(self) -> str:
        """How many rows are done, in words."""
        return "1 row" if self.rows == 1 else f"{self.rows:,} rows"


class Unfinished:
    """The folder of an output that is being made; a context manager that holds its lock."""

    def __init__(
        self,
        target: Path,
        errors: Path | None,
        source: Path,
        bundle_sha256: str,
        say: Callable[[str], None],
        columns: Mapping[str, str] = {},
    ) -> None:
        """Find or make the folder, whose journal then says what is done.

        Raises:
            InputError: an output exists, cannot be made, or is made by another process; the source cannot be opened; or
                the folder is of other rows or another bundle.
        """
        self.target = target
        self.errors = errors
        self.folder = target.with_name(f".{target.name}.unfinished")
        files.refuse_existing(target)
        self._held = ExitStack()
        self._held.enter_context(_lock(self.folder / "lock", target))
        files.sync_entry(self.folder.parent)
        try:
            files.refuse_existing(target)  # again, now that nobody else makes it
            self.raw = self._held.enter_context(tables.opened(source))
            """The bytes of the source, which whoever reads them closes."""
            self._source = os.dup(self.raw.fileno())  # the same file, even where that path is another's by now
            self._held.callback(os.close, self._source)
            self.journal = self._read(Identity.of(source, self._source, bundle_sha256, columns), say)
            self._hold_errors(None if errors is None else _spell(errors))
            if errors is not None:
                self._refuse_existing(errors)
                self._held.enter_context(_reserve(errors))
                self._refuse_existing(errors)
            self._answers = _open_after(self.folder / "answers.jsonl", self.journal.answers_bytes)
            self._errors = _open_after(self.folder / "errors.jsonl", self.journal.errors_bytes)
        except BaseException:
            if not (self.folder / "journal.json").exists():
                shutil.rmtree(self.folder)
            self._held.close()
            raise
        self._saved = monotonic()

    def answer(self, answer: dict[str, Any]) -> None:
        """Keep the answer to the next row."""
        self._done(answers_bytes=_append(self._answers, answer))

    def bad(self, fault: dict[str, Any]) -> None:
        """Keep what is wrong with the next row."""
        self._done(errors_bytes=_append(self._errors, fault), bad=1)

    def kept(self) -> str:
        """What a person is told of it when a row ends the command."""
        return (
            f"what was done before it, {self.journal.told}, is kept: the same command with "
            if self.journal.rows
            else ""
        )

    def end(self) -> None:
        """Make the outputs, each by one rename, and remove the folder.

        Raises:
            InputError: the input was changed meanwhile.
        """
        self._demand_unchanged()
        self.journal.ended = True
        self._step()
        if self.errors is not None:  # first, since the answers are what tells a later call that all is done
            self._refuse_existing(self.errors)
            with files.new_file(self.errors) as stream, (self.folder / "errors.jsonl").open("rb") as found:
                shutil.copyfileobj(found, stream)
        files.publish(formats.made(self.folder / "answers.jsonl", self.target), self.target)
        shutil.rmtree(self.folder)

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        """Keep what is done; a folder where nothing is goes."""
        try:
            with self._answers, self._errors:  # closing writes as well
                if self.folder.exists():
                    if self.journal.rows:
                        self._step()
                    else:
                        shutil.rmtree(self.folder)
        except OSError:
            if kind is None:  # else a full disk has been told of already, and the last step holds
                raise
        finally:
            self._held.close()

    def _read(self, identity: Identity, say: Callable[[str], None]) -> Journal:
        path = self.folder / "journal.json"
        files.remove_left(path)
        if not path.exists():
            return Journal(identity=identity)
        try:
            journal = Journal.model_validate_json(path.read_bytes())
        except ValidationError:
            raise InputError(f"{path}: of another version of bertline; {self._advice}") from None
        self._demand_same(journal, identity)
        for name, size in (("answers.jsonl", journal.answers_bytes), ("errors.jsonl", journal.errors_bytes)):
            if not (self.folder / name).is_file() or (self.folder / name).stat().st_size < size:
                raise InputError(f"{self.folder / name}: not whole; {self._advice}")
        say(f"{self.target}: {journal.told} done, going on from the next")
        return journal

    def _demand_same(self, journal: Journal, identity: Identity) -> None:
        """Raise InputError where other rows are answered than those that were begun, or by another bundle."""
        if journal.identity != identity:
            raise InputError(f"{self.target}: {_difference(journal, identity)}; {self._advice}")

    def _demand_unchanged(self) -> None:
        """Raise InputError where the input was changed since: nobody knows which rows were read before that."""
        stat = os.fstat(self._source)
        now = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        self._demand_same(self.journal, self.journal.identity.model_copy(update=now))

    @property
    def _advice(self) -> str:
        return f"remove {self.folder} to start anew, or name another output"

    def _hold_errors(self, errors: str | None) -> None:
        """Bad rows that were to be told are told, in whichever file: the folder has them all."""
        journal = self.journal
        if journal.bad and errors is None:
            advice = f"go on with that or with another file, or remove {self.folder} to start anew"
            raise InputError(f"{self.target}: {journal.told} done, with --errors {journal.errors}; {advice}")
        journal.errors = errors

    def _refuse_existing(self, errors: Path) -> None:
        """Raise InputError where there is a file already, but for what a call that was killed at its end has made."""
        made = self.folder / "errors.jsonl"
        if not (self.journal.ended and errors.is_file() and filecmp.cmp(errors, made, shallow=False)):
            files.refuse_existing(errors)

    def _done(self, **more: int) -> None:
        """Count a row, all of it at once: between two counts Ctrl-C would have it done again."""
        counts = {name: getattr(self.journal, name) + count for name, count in {"rows": 1, **more}.items()}
        self.journal = self.journal.model_copy(update=counts)
        if monotonic() - self._saved > SECONDS:
            self._demand_unchanged()  # not at the end alone: that may be days later
            self._step()

    def _step(self) -> None:
        for stream in (self._answers, self._errors):
            stream.flush()
            os.fsync(stream.fileno())
        files.write_json(self.folder / "journal.json", self.journal.model_dump())
        self._saved = monotonic()


def _lock(lock: Path, path: Path) -> AbstractContextManager[IO[str]]:
    return files.locked(lock, f"{path}: another process is making it; wait for it, or name another output")


@contextmanager
def _reserve(errors: Path) -> Iterator[None]:
    """Hold a file of bad rows that can be made: at the end, after days it may be, that would be late to learn.

    Raises:
        InputError: it cannot, or another process is making it.
    """
    files.check_writable(errors)
    lock = errors.with_name(f".{errors.name}.lock")
    with _lock(lock, errors):
        yield
        lock.unlink(missing_ok=True)  # on a disk without locks it may be another's as well


def _spell(path: Path) -> str:
    """A path as a journal has it. Raises InputError: JSON cannot have it."""
    whole = str(path.resolve())
    try:
        f"{path} {whole}".encode()  # bad rows tell it as it was given
    except UnicodeEncodeError:
        raise InputError(f"{path}: a name that is not UTF-8 cannot be written down; rename it") from None
    return whole


def _open_after(path: Path, size: int) -> IO[bytes]:
    """A stream that appends after the first `size` bytes."""
    stream = path.open("ab")
    stream.truncate(size)
    return stream


def _append(stream: IO[bytes], value: dict[str, Any]) -> int:
    return stream.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def _difference(journal: Journal, identity: Identity) -> str:
    begun, rows = journal.identity, f"{journal.told} answered already"
    if begun.input != identity.input:
        return f"{rows}, but of another input, {begun.input}"
    if begun.bundle_sha256 != identity.bundle_sha256:
        return f"{rows}, but by another bundle"
    if begun.columns != identity.columns:
        return f"{rows}, but of {begun.columns or 'no'} --column"
    return f"{rows}, but {identity.input} has changed since"
