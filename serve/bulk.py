"""A file of texts in, a file of answers out, of any size: memory stays flat, all cores are busy, and a kill costs a
second of work.

Rows are read one after another, answered by `Model.submit`, or by that of a cluster's `Workers`, and written in the
order of the file; how many are under way is bounded by their number and by their characters. What is done stands in a
folder beside the output (`Unfinished`) until all is, and a second call goes on from there.
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
from bertline.artifacts.tables import Attempt
from bertline.serve import formats
from bertline.serve.lanes import Answered
from bertline.serve.unfinished import Unfinished
from bertline.tasks.task import Answer, Columns, Task
from bertline.tasks.tokens import Text

ROWS = 4096
"""Rows under way at most, for each machine: while one lane computes the longest text, the others must not run out of
short ones."""
CHARACTERS = 1 << 24
"""Characters under way at most, for each machine, or one text."""
HEAD = 100
"""Rows one of which must have the columns that are read: JSON lines may lack a key here and there."""


class Loaded(Protocol):
    """A loaded bundle, here or on several machines."""

    @property
    def task(self) -> Task:
        """What it answers."""

    @property
    def machines(self) -> int:
        """Those that compute."""

    @property
    def sha256(self) -> str:
        """Of the bundle's manifest, which has the hashes of all other files."""

    def submit(self, texts: Sequence[Text]) -> list[Future[Answered]]:
        """Queue texts; a future for each."""


class Outcome(NamedTuple):
    """What became of a row."""

    row: int
    """Its number, as `tables.Attempt` counts."""
    line: int | None
    """Where it begins in the file; None where that has no lines."""
    answer: Answer | InputError
    """InputError: why it is bad."""


class Seen(NamedTuple):
    """How far a file has been answered."""

    rows: int
    done: int
    """Of `total`: rows where the file tells how many it has, else bytes read."""
    total: int


def rows(task: Task, path: Path, raw: BufferedReader, columns: Mapping[str, str] = {}) -> Iterator[Attempt]:
    """The rows of a file that has the columns which a task reads.

    Args:
        task: that reads them.
        path: of the file.
        raw: its bytes.
        columns: the file's names of the task's inputs, where they are others.

    Raises:
        InputError: as `tables.attempts`; or none of the first rows has them.
    """
    suffix, _ = tables.kind(path)
    if suffix in tables.CONLL and task.settings.task != "token-classification":
        inputs = " and ".join(map(repr, task.settings.inputs))
        advice = f"put texts into JSON lines or CSV, with column {inputs}"
        raise InputError(f"{path}: a {suffix} file is read as CoNLL, words with their tags; {advice}")

    def choose(names: Sequence[str]) -> Collection[str]:
        """What is answered; all where that is not there, to be told what is."""
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
        advice = f"name the column that is to be answered: --column {task.settings.inputs[0]}=COLUMN"
        raise InputError(f"{tables.lacking(path, missing, names)}; {advice}")
    yield from chain(head, found)


def answers(model: Loaded, attempts: Iterable[Attempt], columns: Mapping[str, str] = {}) -> Iterator[Outcome]:
    """What becomes of each row of a file, in its order; few enough are under way to hold."""
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
    say: Callable[[str], None],
    watch: Callable[[Seen], None],
    columns: Mapping[str, str] = {},
) -> None:
    """Answer all rows of `source` in `target`, which appears when all are; go on where an earlier call was ended.

    Args:
        model: that answers.
        source: any file that `tables` reads.
        target: of a kind that `formats` writes.
        errors: bad rows go there, as JSON lines; None: the first ends the call, and what was answered is kept.
        say: hears what a person should know.
        watch: hears how far it is, after each row.
        columns: as in `rows`.

    Raises:
        InputError: a file that is to be made exists already; another process makes it; the file cannot be read or
            lacks a column; a row is bad, or with `errors` all are; or what was done is of other rows or another bundle
            (see `Unfinished`).
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
    bad = f"; bad rows: {journal.bad:,}, told in {errors}" if errors else ""
    say(f"{target}: {journal.rows - journal.bad:,} answers{bad}")
    if journal.bad == journal.rows:
        raise InputError(f"{source}: none of its rows could be answered; {errors} tells why, row by row")


def _submit(model: Loaded, attempt: Attempt, columns: Columns) -> tuple[Attempt, int, Future[Answered] | InputError]:
    """A row without its content, the characters of its text, and its answer to be."""
    bare = attempt._replace(row={})
    if isinstance(attempt.row, InputError):
        return bare, 0, attempt.row
    try:
        text = model.task.read_texts(attempt.row, columns, attempt.where)
    except InputError as error:
        return bare, 0, error
    return bare, sum(len(part or "") for part in text), model.submit([text])[0]


def _outcome(attempt: Attempt, _: int, asked: Future[Answered] | InputError) -> Outcome:
    answer = asked if isinstance(asked, InputError) else asked.result().answer
    return Outcome(attempt.number, attempt.line, answer)


def _keep(unfinished: Unfinished, outcome: Outcome, source: Path, goes_on: bool) -> None:
    """Write down an answer, or what is wrong with a row.

    Raises:
        InputError: it is bad and that ends the command.
    """
    if not isinstance(outcome.answer, InputError):
        unfinished.answer({"row": outcome.row, **outcome.answer})
    elif goes_on:
        where = {"file": str(source), "row": outcome.row} | ({} if outcome.line is None else {"line": outcome.line})
        unfinished.bad(where | {"reason": str(outcome.answer).removeprefix(f"{source} ")})
    else:
        raise InputError(f"{outcome.answer}; {unfinished.kept()}--errors FILE goes on past such rows")
