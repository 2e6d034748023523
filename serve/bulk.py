"""Bulk prediction: a file of texts in, a file of answers out, of any size. Memory use is bounded, all cores are busy,
and a kill costs a second of work.

Rows are read one after another, answered by `Model.submit` or by a cluster's `Workers.submit`, and written in file
order; the rows in flight are bounded in number and in characters. Progress is kept in a folder beside the output
(`Unfinished`) until every row is done, and a second call resumes from it.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Protocol

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError
from bertline.artifacts.readers.attempt import Attempt
from bertline.artifacts.say import Say
from bertline.serve import formats
from bertline.serve.lanes import Answered, NoAnswerError
from bertline.serve.unfinished import Unfinished
from bertline.tasks.task import Answer, Columns, Task
from bertline.tasks.tokens import Text

ROWS = 4096
"""Most rows in flight per machine: while one lane computes the longest text, the others must not run out of short
ones."""
CHARACTERS = 1 << 24
"""Most characters in flight per machine; a single text may be longer."""
HEAD = 100
"""First rows that, taken together, must have all columns that are read: a JSON line may lack a key."""


class Loaded(Protocol):
    """A loaded bundle, on this machine or on several."""

    @property
    def task(self) -> Task:
        """The task of the bundle."""

    @property
    def machines(self) -> int:
        """Number of machines that compute."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the bundle's manifest, which holds the hashes of all other files."""

    def submit(self, texts: Sequence[Text]) -> list[Future[Answered]]:
        """Queue texts; a future for each."""


class Outcome(NamedTuple):
    """The outcome of a row."""

    row: int
    """Number of the row, counted as in `Attempt`."""
    line: int | None
    """Line on which the row begins; None for a file without lines."""
    answer: Answer | InputError
    """The answer, or why the row is bad."""


class Seen(NamedTuple):
    """Progress through a file."""

    rows: int
    done: int
    """Part of `total` that is done: rows if the file tells how many it has, otherwise bytes read."""
    total: int


def rows(task: Task, path: Path, raw: BufferedReader, columns: Mapping[str, str] = {}) -> Iterator[Attempt]:
    """Read the rows of a file, which must have the columns that a task needs.

    Args:
        task: the task that answers the rows.
        path: path of the file.
        raw: the file's bytes.
        columns: the file's column for each input of the task that has another name there.

    Raises:
        InputError: as `tables.attempts`; the format does not suit the task; or the first rows lack a column.
    """
    suffix, _ = tables.kind(path)
    if suffix in tables.CONLL and task.settings.task != "token-classification":
        inputs = " and ".join(map(repr, task.settings.inputs))
        advice = f"put texts into JSON lines or CSV, with column {inputs}"
        raise InputError(f"{path}: a {suffix} file is read as CoNLL, words with their tags; {advice}")

    def choose(names: Sequence[str]) -> Collection[str]:
        """Columns to read; all of them if one is missing, so that the error can list them."""
        read = [*task.settings.inputs, *task.instead]
        return names if task.missing(names, columns) else [columns.get(name, name) for name in read]

    found = tables.attempts(path, raw, choose)
    head: list[Attempt] = []
    names: dict[str, None] = {}
    missing: list[str] = []
    for attempt in islice(found, HEAD):
        head.append(attempt)
        names |= {} if isinstance(attempt.row, InputError) else dict.fromkeys(attempt.row)
        missing = task.missing(names, columns) if names else []
        if names and not missing:
            break
    if missing:
        advice = f"name the column to answer: --column {task.settings.inputs[0]}=COLUMN"
        raise InputError(f"{tables.lacking(path, missing, names)}; {advice}")
    yield from chain(head, found)


def answers(model: Loaded, attempts: Iterable[Attempt], columns: Mapping[str, str] = {}) -> Iterator[Outcome]:
    """Yield the outcome of each row, in file order, with a bounded number of rows in flight."""
    known = model.task.columns(columns)
    pending: deque[tuple[Attempt, int, Future[Answered] | InputError]] = deque()
    held = 0
    try:
        for attempt in attempts:
            pending.append(_submit(model, attempt, known))
            held += pending[-1][1]
            while len(pending) > ROWS * model.machines or (held > CHARACTERS * model.machines and len(pending) > 1):
                held -= pending[0][1]
                yield _outcome(*pending.popleft())
        while pending:
            yield _outcome(*pending.popleft())
    finally:
        for _, _, asked in pending:
            if isinstance(asked, Future):
                asked.cancel()


def predict(
    model: Loaded,
    source: Path,
    target: Path,
    errors: Path | None,
    say: Say,
    watch: Callable[[Seen], None],
    columns: Mapping[str, str] = {},
) -> None:
    """Answer all rows of `source` in `target`, which appears once all are done; resume where an earlier call stopped.

    Args:
        model: answers the rows.
        source: a file of any kind that `tables` reads.
        target: a file of any kind that `formats` writes.
        errors: file for bad rows, as JSON lines; None to stop at the first one, keeping what was answered.
        say: receives messages for the user.
        watch: receives the progress after each row.
        columns: as in `rows`.

    Raises:
        InputError: an output exists already or is being written by another process; the input cannot be read or lacks
            a column; a row is bad or, with `errors`, all rows are; or the unfinished work belongs to another input or
            bundle (see `Unfinished`).
    """
    formats.check(target)
    if source.is_fifo():
        raise InputError(f"{source}: a pipe, which cannot be read again after a kill; write it to a file first")
    with Unfinished(target, errors, source, model.sha256, say, columns) as unfinished:
        if not unfinished.journal.ended:
            total = tables.count(source)
            size = source.stat().st_size
            raw = unfinished.raw
            rest = islice(rows(model.task, source, raw, columns), unfinished.journal.rows, None)
            for outcome in answers(model, rest, columns):
                _keep(unfinished, outcome, source, errors is not None)
                done = unfinished.journal.rows
                read = size if raw.closed else raw.tell()
                watch(Seen(done, read, size) if total is None else Seen(done, done, total))
        unfinished.end()
    journal = unfinished.journal
    bad = f"; bad rows: {journal.bad:,}, listed in {errors}" if errors else ""
    say(f"{target}: {journal.rows - journal.bad:,} answers{bad}")
    if journal.bad == journal.rows:
        raise InputError(f"{source}: none of its rows could be answered; {errors} says why, row by row")


def _submit(model: Loaded, attempt: Attempt, columns: Columns) -> tuple[Attempt, int, Future[Answered] | InputError]:
    """Submit a row; returns it without its content, the number of its characters, and its future or its fault."""
    bare = attempt._replace(row={})
    if isinstance(attempt.row, InputError):
        return bare, 0, attempt.row
    try:
        text = model.task.read_texts(attempt.row, columns, attempt.where)
    except InputError as error:
        return bare, 0, error
    return bare, sum(len(part or "") for part in text), model.submit([text])[0]


def _outcome(attempt: Attempt, _: int, asked: Future[Answered] | InputError) -> Outcome:
    try:
        answer = asked if isinstance(asked, InputError) else asked.result().answer
    except NoAnswerError as error:
        answer = InputError(f"{attempt.where}: {error}")
    return Outcome(attempt.number, attempt.line, answer)


def _keep(unfinished: Unfinished, outcome: Outcome, source: Path, skip_bad: bool) -> None:
    """Record an answer, or what is wrong with a row.

    Raises:
        InputError: the row is bad, and bad rows end the command.
    """
    if not isinstance(outcome.answer, InputError):
        unfinished.answer({"row": outcome.row, **outcome.answer})
    elif skip_bad:
        where = {"file": str(source), "row": outcome.row} | ({} if outcome.line is None else {"line": outcome.line})
        unfinished.bad(where | {"reason": str(outcome.answer).removeprefix(f"{source} ")})
    else:
        raise InputError(f"{outcome.answer}; {unfinished.kept()}--errors FILE skips such rows")
