"""The public API of a loaded bundle: `bertline.serve.load` and `Model`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from os import PathLike
from pathlib import Path
from time import perf_counter

import numpy as np

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError
from bertline.serve.answers import Typed, typed
from bertline.serve.engine import Bundle, Engine
from bertline.serve.lanes import CHARACTERS_A_TOKEN, Answered, Answerer, Computed, Lanes, LateError, Left, NoAnswerError
from bertline.tasks.task import Answer, Output
from bertline.tasks.tokens import Encoded, Text, by_length, refuse_lone_surrogates

Question = str | tuple[str, str]
"""One text, or two: a pair of texts, or a question and its context."""
RECENT = 0.05
"""Weight of the newest text in the moving average of the seconds per window."""
FEW = 5
"""Batches after which the fastest so far predicts the rest: other load on the machine only slows batches down."""
MARGIN = 2.0
"""A text is given up only if its remaining batches are predicted to take this many times the seconds left."""


def load(
    bundle: str | PathLike[str], threads: int | None = None, public_key: str | PathLike[str] | None = None
) -> Model:
    """Load a bundle: check its files, and its golden texts before any other text is answered.

    Args:
        bundle: the bundle's folder.
        threads: cores to compute on; None for all physical cores that affinity and control groups leave this process.
        public_key: PEM file of the key that the bundle must be signed with, which is checked first; None accepts any.

    Raises:
        InputError: the folder is not a bundle, the file holds no such key, model-signing is not installed, or `threads`
            is less than 1.
        DamagedError: the bundle is not signed with the key, a file differs from its recorded hash, or this CPU's logits
            differ from the recorded ones.

    >>> with load("bundles/demo") as model:                     # doctest: +SKIP
    ...     model.predict(["A film to remember."])[0].label
    'positive'
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be at least 1")
    checked = Bundle(Path(bundle), None if public_key is None else Path(public_key))
    lanes = Lanes(threads or machine.cores())
    try:
        return Model(checked, lanes)
    except BaseException:
        lanes.close()
        raise


class Model:
    """Answers texts, from any number of threads. A context manager, which ends its lanes' threads on exit."""

    machines = 1
    """Machines that compute: this one (see `bulk.Loaded`)."""

    def __init__(self, bundle: Bundle, lanes: Lanes) -> None:
        """Load the model of a bundle onto lanes, one per core, which other models may share."""
        self.bundle = bundle
        self.manifest, self.sha256 = bundle.manifest, bundle.sha256
        self.task = bundle.task
        self.lanes = lanes
        self._all_cores = bundle.engine(lanes.count)
        self._per_core: Engine | None = None
        self._loading = threading.Lock()
        if lanes.count == 1:
            self._keep_per_core(self._all_cores)

    def predict(self, asked: Sequence[Question]) -> list[Typed]:
        """Answer each text, in the order given.

        Args:
            asked: texts, or pairs of texts if the bundle takes two inputs (`manifest.inputs`).

        Raises:
            InputError: a text does not fit the bundle's inputs, or is not valid Unicode; names its position, from 1.
            NoAnswerError: the model gives no finite numbers for a text.
            RuntimeError: the model is closed, or was loaded before this process was forked.
        """
        if isinstance(asked, str):  # a string is a sequence of strings as well
            raise InputError("a list of texts is expected, but a string was given")
        futures = self.submit([self._read(one, number) for number, one in enumerate(asked, start=1)])
        try:
            return [typed(future.result().answer) for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def submit(self, texts: Sequence[Text], deadline: float = float("inf")) -> list[Future[Answered]]:
        """Queue texts, which must hold no lone surrogates; see `Lanes.submit`."""
        # made here: as an attribute it would refer back to the model, which would then not be freed once replaced
        asked = Answerer(self._compute, self.bundle.packing)
        return self.lanes.submit(texts, asked, deadline, self.expected(texts))

    @property
    def seconds(self) -> float:
        """Seconds that a window is expected to take on one core: under load it has no more.

        A time on all cores is a lower bound of it, so that the slower engine counts. Both begin at the time of a golden
        text, so that even the first requests are limited.
        """
        return max(self._all_cores.seconds, (self._per_core or self._all_cores).seconds)

    def expected(self, texts: Sequence[Text]) -> list[float]:
        """Estimated seconds that each text takes on one core."""
        return [self.seconds * self._windows(text) for text in texts]

    def prepare(self) -> None:
        """Load the per-core engine now rather than when two texts first wait: this takes as long as loading the bundle
        did, and as much memory again as the model.
        """
        with self._loading:
            self._load_per_core()

    def close(self) -> None:
        """Answer the queued texts, then end the threads; later calls of `predict` raise RuntimeError."""
        self.lanes.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _read(self, asked: Question, number: int) -> Text:
        """A question as the tokenizer takes it.

        Raises:
            InputError: see `predict`.
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
        """Estimated number of windows of a text, judging by its characters."""
        tokens = self.manifest.tokens
        if tokens.long != "windows":
            return 1
        characters = max(len(part) for part in text if part is not None)
        return 1 + characters // (CHARACTERS_A_TOKEN * max(1, tokens.max_length - tokens.stride))

    def _compute(self, texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        """Answer texts side by side; runs in a lane's thread."""
        engine = self._all_cores if alone else self._per_core_engine()
        begun = perf_counter()
        windows = engine.tokenizer.encode(texts)
        tokenized = perf_counter()
        batches = in_time(self._batches(windows), left, tokenized - begun, self.lanes.count)
        expected = sum(map(self._windows, texts))
        try:
            outputs = engine.outputs_of(windows, batches)
            answers = self._finite(engine.decode(texts, windows, outputs), windows, outputs)
        except LateError as error:  # counted too: otherwise a queue of such texts would seem to take no time
            if error.done:
                self._learn((perf_counter() - begun) / (error.done * expected), engine)
            raise
        ended = perf_counter()
        self._learn((ended - begun) / expected, engine)
        return Computed(answers, tokenized - begun, ended - tokenized)

    def _finite(
        self, answers: Sequence[Answer], windows: Sequence[Encoded], outputs: Sequence[Output]
    ) -> list[Answer | NoAnswerError]:
        """The answers, with an error in place of each that was decoded from NaN or infinite numbers."""
        lost = {window.text for window, output in zip(windows, outputs, strict=True) if not np.isfinite(output).all()}
        words = f"no answer: {self.manifest.name} computes NaN or infinite numbers for this text"
        return [NoAnswerError(words) if place in lost else answer for place, answer in enumerate(answers)]

    def _learn(self, took: float, engine: Engine) -> None:
        """Update an engine's `seconds` by a time per window, as `_windows` counts them: it may guess too few."""
        engine.seconds += RECENT * (took - engine.seconds)
        if engine is self._per_core:  # never faster: else a lone text's stall would count for as long as others wait
            self._all_cores.seconds = min(self._all_cores.seconds, engine.seconds)

    def _per_core_engine(self) -> Engine:
        """The per-core engine; while the lane that first wants it loads it, other lanes use the all-core engine."""
        if self._per_core is None and self._loading.acquire(blocking=False):
            try:
                self._load_per_core()
            finally:
                self._loading.release()
        return self._per_core or self._all_cores

    def _load_per_core(self) -> None:
        if self._per_core is None:
            self._keep_per_core(self.bundle.engine(self.lanes.count, streams=self.lanes.count))

    def _keep_per_core(self, engine: Engine) -> None:
        """Keep the per-core engine, which is the last one made, and free the model's bytes."""
        self._per_core = engine
        self.bundle.let_go()

    def _batches(self, windows: Sequence[Encoded]) -> list[list[int]]:
        """Indices of windows that are computed together: short windows are packed, longer ones run alone."""
        packing = self.bundle.packing
        lengths = [len(window.input_ids) for window in windows]
        if packing is None or len(windows) == 1:
            return [[index] for index in range(len(windows))]
        short = [index for index, length in enumerate(lengths) if length <= packing.tokens]
        packed = by_length([lengths[index] for index in short], packing.texts)
        long = [[index] for index, length in enumerate(lengths) if length > packing.tokens]
        return long + [[short[place] for place in places] for places in packed]


def in_time(batches: Sequence[list[int]], left: Left, spent: float, lanes: int) -> Iterator[list[int]]:
    """Yield batches of windows, the next one once the last is computed, as long as they can be done in time.

    Args:
        batches: indices of windows, in batches of similar cost.
        left: gives the seconds until nobody waits for them any more.
        spent: seconds that were already spent on them.
        lanes: lanes that share the cores; with all cores to themselves, the batches may take that many times less.

    Raises:
        LateError: nobody waits any more, or nobody will once they are done, predicted from the fastest batch so far.
    """
    least = float("inf")
    for done, batch in enumerate(batches):
        known = least if done >= FEW else 0.0
        if left() <= 0 or known * (len(batches) - done) > MARGIN * left():
            raise LateError(spent + known * len(batches) / lanes if known else 0.0, done / len(batches))
        begun = perf_counter()
        yield batch
        least = min(least, perf_counter() - begun)
