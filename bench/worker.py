"""One system in a process of its own, asked one question at a time over a pipe.

Two runtimes in one process disturb each other (threads may spin after a run), and memory can only be told apart by
process. Between questions a worker is blocked on its pipe. After a run PyTorch's threads spin on for about 10 ms, and
longer on a busy machine, then use no processor at all; ONNX Runtime's are told not to. A worker that was timed answers
only when its CPU time stands still, so that the next one has the machine to itself.

A worker ends with its parent, however that ends: leaving the `with` block kills it, and when the parent is gone the
pipe closes and the worker returns. What fails inside is told to the parent as one line that names the system.

Cost: the libraries of ONNX Runtime are imported in 0.4 s, PyTorch's and transformers' in about 4.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

from bertline.artifacts import imports
from bertline.artifacts.errors import BertlineError
from bertline.bench.systems import System
from bertline.models import transformers_tokens
from bertline.serve.engine import Engine
from bertline.serve.runtimes import RUNTIMES, OnnxRuntime, Runtime, Tally
from bertline.tasks import catalog
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch, Text, by_length

PROCESSES = multiprocessing.get_context("spawn")
"""A worker begins with nothing of its parent's, so that its memory is its own."""
WARM_UP_SECONDS = 0.05
TURN_SECONDS = 0.25
MIN_REPETITIONS = 2
BATCH = 16
"""Texts that PyTorch answers at once, where nothing is timed."""
SURE_OF_ALL_AND_OF_NONE = (0.0, 2.0)
"""Thresholds of a cascade, none of which is a probability that it computes."""


class Worker:
    """The parent's side. A context manager; questions raise a BertlineError that names the system."""

    def __init__(self, system: System, threads: int) -> None:
        self.system = system
        self.failed = False
        """Whether a question was not answered: the process has ended, or an error was told."""
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_answer, args=(theirs, system, threads), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does; once more does no harm."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def prepare(self) -> None:
        """Wait until the libraries are imported; the import begins as the process does, so several overlap."""
        self._ask("prepare")

    def load(self, batch: Batch) -> float:
        """Seconds from making the runtime, anew, to its first answer; libraries imported, file cache as it is."""
        return float(self._ask("load", batch))

    @property
    def ways(self) -> int:
        """How many there are to answer a text: two of a cascade."""
        return 1 if self.system.share is None else len(SURE_OF_ALL_AND_OF_NONE)

    def time(self, batch: Batch, between: Batch | None) -> list[list[float]]:
        """One turn: for each of its ways the seconds of each repetition, warm-up left out.

        Args:
            batch: what is timed; of a cascade as if the student was sure of all texts, then as if of none.
            between: what is computed before every repetition, untimed, if anything. A server hardly ever gets two texts
                of one length in a row, and OpenVINO takes longer whenever the length changes.
        """
        seconds: list[list[float]] = self._ask("time", batch, between, WARM_UP_SECONDS, TURN_SECONDS)
        return seconds

    def outputs(self, texts: Sequence[Text]) -> list[Output]:
        """What the model gives for each window of the texts, in order."""
        return self.outputs_later(texts)()

    def asked_share(self) -> float:
        """Of the texts that `outputs` was last asked, those that a cascade's larger model has answered."""
        return float(self._ask("asked_share"))

    def outputs_later(self, texts: Sequence[Text]) -> Callable[[], list[Output]]:
        """As `outputs`, while the caller does other things; what is returned waits for them, and is called before the
        next question.
        """
        return self._begin("outputs", list(texts))

    def run(self, batch: Batch) -> Output:
        """As `Runtime.run`: a worker is a runtime, too."""
        output: Output = self._ask("run", batch)
        return output

    def read(self, texts: Sequence[Text]) -> transformers_tokens.Reading:
        """What transformers makes of the texts, where the system is PyTorch's. See `transformers_tokens.read`."""
        reading: transformers_tokens.Reading = self._ask("read", list(texts))
        return reading

    def peak_rss_bytes(self) -> int:
        """The most memory the process has held so far, the interpreter and all libraries included."""
        return int(self._ask("peak_rss_bytes"))

    def _ask(self, question: str, *arguments: object) -> Any:
        return self._begin(question, *arguments)()

    def _begin(self, question: str, *arguments: object) -> Callable[[], Any]:
        with self._alive():
            self._pipe.send((question, arguments))
        return self._receive

    def _receive(self) -> Any:
        with self._alive():
            answer = self._pipe.recv()
        if isinstance(answer, _Failure):
            self.failed = True
            raise answer.kind(f"{self.system.name}: {answer.line}")
        return answer

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Tell how the process ended, if it has."""
        try:
            yield
        except (EOFError, OSError):
            self.failed = True
            self._process.join()
            raise BertlineError(f"{self.system.name}: its process ended {_ending(self._process.exitcode)}") from None


@dataclass(frozen=True)
class _Failure:
    kind: type[BertlineError]
    line: str


def _answer(pipe: Connection, system: System, threads: int) -> None:
    """The child's side: answer until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    inside = _Inside(system, threads)
    with suppress(EOFError, ConnectionError):
        while True:
            question, arguments = pipe.recv()
            try:
                answer = getattr(inside, question)(*arguments)
            except Exception as error:
                answer = _failure(error)
            pipe.send(answer)


class _Inside:
    """The system itself, in the child."""

    def __init__(self, system: System, threads: int) -> None:
        self.system = system
        self.task = catalog.make(system.settings)
        self.threads = threads

    def prepare(self) -> None:
        if self.system.kind == "pytorch":
            with imports.lean():
                from bertline.models.pytorch import model_class

                model_class(self.system.model, self.task.architecture)
        else:
            importlib.import_module(self.system.kind)

    def load(self, batch: Batch) -> float:
        vars(self).pop("runtime", None)
        start = perf_counter()
        self.runtime.run(batch)
        seconds = perf_counter() - start
        settle()
        return seconds

    def time(
        self, batch: Batch, between: Batch | None, warm_up_seconds: float, turn_seconds: float
    ) -> list[list[float]]:
        times = []
        for way in self.ways:
            prepare = partial(way, between) if between is not None else None
            times.append(repeat(partial(way, batch), warm_up_seconds, turn_seconds, prepare))
        settle()
        return times

    @property
    def ways(self) -> list[Callable[[Batch], Output]]:
        """The run, or both ways that a cascade has."""
        if self.system.share is None:
            return [self.runtime.run]
        return [partial(self.cascade.run, threshold=threshold) for threshold in SURE_OF_ALL_AND_OF_NONE]

    @property
    def cascade(self) -> OnnxRuntime:
        """The runtime of a cascade."""
        assert isinstance(self.runtime, OnnxRuntime), "which alone runs cascades"
        return self.runtime

    def asked_share(self) -> float:
        tally = self.cascade.tally
        assert tally is not None, "it is asked after outputs"
        return tally.asked / max(tally.texts, 1)

    def outputs(self, texts: list[Text]) -> list[Output]:
        tokenizer = self.task.tokenizer(self.system.tokenizer)
        engine, windows = Engine(self.task, tokenizer, self.runtime), tokenizer.encode(texts)
        if self.system.share is not None:
            self.cascade.tally = Tally()
        if self.system.kind == "pytorch":  # in fp32 a window has the same answer in any company, and sooner
            return engine.outputs_of(windows, by_length([len(window.input_ids) for window in windows], BATCH))
        return engine.outputs(windows)

    def run(self, batch: Batch) -> Output:
        return self.runtime.run(batch)

    def read(self, texts: list[Text]) -> transformers_tokens.Reading:
        from bertline.models.pytorch import PyTorchRuntime, input_names

        assert isinstance(self.runtime, PyTorchRuntime), "transformers reads for PyTorch alone"
        typed = "token_type_ids" in input_names(type(self.runtime.model).forward)
        # a question that would leave its context no room is cut as bertline does it: transformers would refuse it
        texts_with_room, _ = self.task.tokenizer(self.system.tokenizer).with_room(texts)
        return transformers_tokens.read(self.system.model, self.task, texts_with_room, typed)

    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    @cached_property
    def runtime(self) -> Runtime:
        if self.system.kind == "pytorch":
            from bertline.models.pytorch import PyTorchRuntime

            return PyTorchRuntime(self.system.model, self.task.architecture, self.threads)
        return RUNTIMES[self.system.kind](self.system.model, self.threads)


def repeat(
    run: Callable[[], object],
    warm_up_seconds: float,
    turn_seconds: float,
    prepare: Callable[[], object] | None = None,
) -> list[float]:
    """Seconds of each repetition: as many as fit in a turn, at least MIN_REPETITIONS, after a warm-up.

    Args:
        run: what is timed.
        warm_up_seconds, turn_seconds: how long both take, together with `prepare`.
        prepare: called before every repetition, untimed.
    """

    def once() -> float:
        if prepare is not None:
            prepare()
        start = perf_counter()
        run()
        return perf_counter() - start

    warm = perf_counter() + warm_up_seconds
    once()
    while perf_counter() < warm:
        once()
    seconds: list[float] = []
    end = perf_counter() + turn_seconds
    while len(seconds) < MIN_REPETITIONS or perf_counter() < end:
        seconds.append(once())
    return seconds


def settle() -> None:
    """Wait until no thread of this process computes, a second at most."""
    for _ in range(20):
        before = process_time()
        sleep(0.05)
        if process_time() - before < 0.001:
            return


def peak_rss_bytes() -> int:
    """Peak resident memory of this process.

    Linux hands `ru_maxrss` of the parent down to the programs it starts, so it is the kernel's VmHWM that is read,
    which begins anew with each program.
    """
    status = Path("/proc/self/status").read_text()
    if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # gVisor has no VmHWM


def _failure(error: Exception) -> _Failure:
    """One line for the parent, and the class that decides the command's exit code."""
    words = " ".join(str(error).split())
    if isinstance(error, BertlineError):
        return _Failure(type(error), words)
    return _Failure(BertlineError, f"{type(error).__name__}: {words:.500}")


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"with exit code {exitcode}"
