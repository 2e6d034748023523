"""A loaded bundle, as users hold it: `bertline.serve.load`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from os import PathLike
from pathlib import Path
from time import perf_counter

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError
from bertline.serve.answers import Typed, typed
from bertline.serve.engine import Bundle, Engine
from bertline.serve.lanes import CHARACTERS_A_TOKEN, Answered, Answerer, Computed, Lanes, LateError, Left
from bertline.tasks.tokens import Encoded, Text, by_length, refuse_lone_surrogates

Question = str | tuple[str, str]
"""A text; or a pair of texts, or a question and its context."""
RECENT = 0.05
"""What the newest text counts in the mean of what a window takes."""
FEW = 5
"""Batches of a text whose quickest tells how long the others take, whatever else the machine had to do."""
MARGIN = 2.0
"""How many times the seconds that are left a text may seem to take, and yet is computed on."""


def load(bundle: str | PathLike[str], threads: int | None = None) -> Model:
    """Load a bundle, whose files are checked and whose golden texts are answered before any other.

    Args:
        bundle: its folder.
        threads: cores to compute on; None for all physical ones that affinity and control group leave this process.

    Raises:
        InputError: the folder is no bundle, or there are no threads.
        DamagedError: a file is not the recorded one, or this CPU answers otherwise than the one that sealed it.

    >>> with load("bundles/demo") as model:                     # doctest: +SKIP
    ...     model.predict(["A film to remember."])[0].label
    'positive'
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; 1 is the least")
    checked, lanes = Bundle(Path(bundle)), Lanes(threads or machine.cores())
    try:
        return Model(checked, lanes)
    except BaseException:
        lanes.close()
        raise


class Model:
    """Answers texts, from any number of threads. A context manager; leaving it ends its threads."""

    machines = 1
    """This one; see `bulk.Loaded`."""

    def __init__(self, bundle: Bundle, lanes: Lanes) -> None:
        """Load the model of a bundle, to compute on as many cores as there are lanes, which others may use as well."""
        self.bundle = bundle
        self.manifest, self.sha256 = bundle.manifest, bundle.sha256
        self.task = bundle.task
        self.lanes = lanes
        self._together = bundle.engine(lanes.count)
        self._apart: Engine | None = None
        self._loading = threading.Lock()
        self.seconds = self._together.seconds
        """What a window of a text takes a core by itself, of late; at first what a golden text took, so that no crowd
        is let in unseen. What one takes that has all cores is the least: in a crowd it will not have them."""
        if lanes.count == 1:
            self._hold_apart(self._together)

    def predict(self, asked: Sequence[Question]) -> list[Typed]:
        """An answer for each text, in the order asked.

        Args:
            asked: texts; or, where the bundle takes two (`manifest.inputs`), pairs of them.

        Raises:
            InputError: the bundle takes other than that, or a text is none; names it by its place, from 1.
        """
        if isinstance(asked, str):  # which is a sequence of strings, too
            raise InputError("a list of texts is expected, and a string was given")
        futures = self.submit([self._read(one, number) for number, one in enumerate(asked, start=1)])
        try:
            return [typed(future.result().answer) for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def submit(self, texts: Sequence[Text], deadline: float = float("inf")) -> list[Future[Answered]]:
        """Queue texts that hold no lone surrogates, as `Lanes.submit` does."""
        # made here: a model that held it would hold itself, and not go when another takes its place
        asked = Answerer(self._compute, self.bundle.packing)
        return self.lanes.submit(texts, asked, deadline, self.expected(texts))

    def expected(self, texts: Sequence[Text]) -> list[float]:
        """Seconds that each text is likely to take a core."""
        return [self.seconds * self._windows(text) for text in texts]

    def prepare(self) -> None:
        """Load now what computes a text on each core, which otherwise happens when two texts first wait: it takes as
        long as loading the bundle did, and as much memory again as the model.
        """
        with self._loading:
            self._load_apart()

    def close(self) -> None:
        """Answer what was asked, then end; what is asked afterwards raises RuntimeError."""
        self.lanes.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _read(self, asked: Question, number: int) -> Text:
        """What the tokenizer takes.

        Raises:
            InputError: as `predict`.
        """
        inputs = self.manifest.inputs
        text: tuple[object, ...] = tuple(asked) if isinstance(asked, list | tuple) else (asked,)
        if len(text) != len(inputs) or not all(isinstance(part, str) for part in text):
            expected = "a string" if len(inputs) == 1 else f"a pair of strings, {inputs[0]} and {inputs[1]},"
            raise InputError(f"text {number} is {asked!r:.60}; {expected} is expected")
        for name, part in zip(inputs, text, strict=True):
            refuse_lone_surrogates(str(part), f"text {number}: {name}")
        first, second = (*map(str, text), None)[:2]
        return str(first), second

    def _windows(self, text: Text) -> int:
        """In how many windows a text is likely to be read, as far as its characters tell."""
        tokens = self.manifest.tokens
        if tokens.long != "windows":
            return 1
        characters = max(len(part) for part in text if part is not None)
        return 1 + characters // (CHARACTERS_A_TOKEN * max(1, tokens.max_length - tokens.stride))

    def _compute(self, texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        """In a lane: answer texts that are to be computed side by side."""
        engine = self._together if alone else self._engine_apart()
        begun = perf_counter()
        windows = engine.tokenizer.encode(texts)
        tokenized = perf_counter()
        batches = in_time(self._batches(windows), left, tokenized - begun, self.lanes.count)
        expected = sum(map(self._windows, texts))
        try:
            answers = engine.decode(texts, windows, engine.outputs_of(windows, batches))
        except LateError as error:  # else a queue of such texts would go on as one that takes no time
            if error.done:
                self._learn((perf_counter() - begun) / (error.done * expected), engine)
            raise
        ended = perf_counter()
        self._learn((ended - begun) / expected, engine)
        return Computed(answers, tokenized - begun, ended - tokenized)

    def _learn(self, took: float, engine: Engine) -> None:
        """What a window has just taken, as `expected` counts them, which may guess too few of a text."""
        if engine is self._apart or took > self.seconds:
            self.seconds += RECENT * (took - self.seconds)

    def _engine_apart(self) -> Engine:
        """Computes on one core; while it is loaded, by the lane that first wants it, the others go on with all."""
        if self._apart is None and self._loading.acquire(blocking=False):
            try:
                self._load_apart()
            finally:
                self._loading.release()
        return self._apart or self._together

    def _load_apart(self) -> None:
        if self._apart is None:
            self._hold_apart(self.bundle.engine(self.lanes.count, streams=self.lanes.count))

    def _hold_apart(self, engine: Engine) -> None:
        """The last engine that is made."""
        self._apart, self.seconds = engine, engine.seconds
        self.bundle.let_go()

    def _batches(self, windows: Sequence[Encoded]) -> list[list[int]]:
        """Indices of windows that are computed at once: the short ones packed, all others alone."""
        packing = self.bundle.packing
        lengths = [len(window.input_ids) for window in windows]
        if packing is None or len(windows) == 1:
            return [[index] for index in range(len(windows))]
        short = [index for index, length in enumerate(lengths) if length <= packing.tokens]
        packed = by_length([lengths[index] for index in short], packing.texts)
        long = [[index] for index, length in enumerate(lengths) if length > packing.tokens]
        return long + [[short[place] for place in places] for places in packed]


def in_time(batches: Sequence[list[int]], left: Left, spent: float, lanes: int) -> Iterator[list[int]]:
    """Batches of windows, each of which is asked for once the one before it is computed, while they can be in time.

    Args:
        batches: alike in size.
        left: seconds in which anybody waits for them.
        spent: seconds that they took before.
        lanes: that may share the cores: without the others, these might take that many times less.

    Raises:
        LateError: nobody waits any more; or nobody will when they are done, as the quickest so far tells.
    """
    least = float("inf")
    for done, batch in enumerate(batches):
        known = least if done >= FEW else 0.0
        if left() <= 0 or known * (len(batches) - done) > MARGIN * left():
            raise LateError(spent + known * len(batches) / lanes if known else 0.0, done / len(batches))
        begun = perf_counter()
        yield batch
        least = min(least, perf_counter() - begun)
