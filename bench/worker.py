"""Runs one system in a process of its own, which takes requests over a pipe, one after another.

Two runtimes in one process disturb each other (threads may spin after a run), and memory can only be measured per
process. Between requests a worker is blocked on its pipe. After a run, PyTorch's threads spin for about 10 ms, longer
on a busy machine, and then use no CPU; ONNX Runtime's are set not to spin. After timing, a worker replies only once its
CPU time stands still, so that the next one has the machine to itself.

A worker always ends with its parent: leaving the `with` block kills it, and if the parent dies the pipe closes and the
worker returns. An error inside is reported to the parent as one line that names the system.

Cost: importing ONNX Runtime takes 0.4 s, PyTorch and transformers about 4 s; a worker begins with that by itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import resource
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

from bertline.artifacts.errors import BertlineError, one_line
from bertline.bench.systems import System
from bertline.models import imports, transformers_tokens
from bertline.serve.engine import Engine
from bertline.serve.runtimes import RUNTIMES, OnnxRuntime, Runtime, Tally
from bertline.tasks import catalog
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch, Encoded, Text, by_length

PROCESSES = multiprocessing.get_context("spawn")
"""Spawned rather than forked, so that a worker's memory is only its own."""
WARM_UP_SECONDS = 0.05
TURN_SECONDS = 0.25
MIN_REPETITIONS = 2
BATCH = 16
"""The batch size in which PyTorch answers texts when nothing is timed."""
SURE_OF_ALL_AND_OF_NONE = (0.0, 2.0)
"""Thresholds with which a cascade's student answers every text, and none."""


class Worker:
    """The parent's side of a worker process. A context manager; errors are BertlineErrors that name the system."""

    def __init__(self, system: System, threads: int) -> None:
        self.system = system
        self.failed = False
        """Whether a request failed: the process ended, or it reported an error."""
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_serve, args=(theirs, system, threads), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe closes when the process ends
        self._requests = ThreadPoolExecutor(1)  # one may be made before the reply to the one before it

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process; may be called again."""
        self._process.kill()
        self._process.join()
        self._requests.shutdown(cancel_futures=True)
        self._pipe.close()

    def prepare(self) -> None:
        """Wait until the libraries are imported."""
        self._call("prepare")

    def load(self, batch: Batch) -> float:
        """Seconds from creating a new runtime to its first answer, libraries imported and the file cache as it is."""
        return float(self._call("load", batch))

    @property
    def ways(self) -> int:
        """The number of paths that a text can take: two in a cascade."""
        return 1 if self.system.share is None else len(SURE_OF_ALL_AND_OF_NONE)

    def time(self, batch: Batch, between: Batch | None) -> list[list[float]]:
        """Time one turn: for each path, the seconds of each repetition without the warm-up.

        Args:
            batch: the batch to time; a cascade is timed as if its student was sure of all texts, then as if of none.
            between: a batch to compute, untimed, before every repetition. A server rarely gets two texts of the same
                length in a row, and OpenVINO takes longer whenever the length changes.
        """
        seconds: list[list[float]] = self._call("time", batch, between, WARM_UP_SECONDS, TURN_SECONDS)
        return seconds

    def outputs(self, texts: Sequence[Text]) -> list[Output]:
        """The model's output for each window of the texts, in order."""
        return self.outputs_later(texts)()

    def asked_share(self) -> float:
        """The share of the texts of the last `outputs` call that a cascade's larger model answered."""
        return float(self._call("asked_share"))

    def outputs_later(self, texts: Sequence[Text]) -> Callable[[], list[Output]]:
        """Start computing `outputs` in the background; call the result to wait for them."""
        return self._later("outputs", list(texts))

    def alone_later(self, windows: Sequence[Encoded]) -> Callable[[], list[Output]]:
        """Start computing the output for each window, alone, in the background; call the result to wait for them."""
        return self._later("alone", list(windows))

    def run(self, batch: Batch) -> Output:
        """Compute a batch as `Runtime.run` does, so that a worker can serve as a runtime."""
        output: Output = self._call("run", batch)
        return output

    def read_later(self, texts: Sequence[Text]) -> Callable[[], transformers_tokens.Reading]:
        """Start reading texts by transformers, if the system is PyTorch; call the result to wait for what
        `transformers_tokens.read` returns.
        """
        return self._later("read", list(texts))

    def peak_rss_bytes(self) -> int:
        """The process's peak memory so far, including the interpreter and all libraries."""
        return int(self._call("peak_rss_bytes"))

    def _call(self, name: str, *arguments: object) -> Any:
        return self._later(name, *arguments)()

    def _later(self, name: str, *arguments: object) -> Callable[[], Any]:
        return self._requests.submit(self._exchange, name, arguments).result

    def _exchange(self, name: str, arguments: tuple[object, ...]) -> Any:
        """Let the process call a method of `_Inside`, and wait for what it returns."""
        try:
            self._pipe.send((name, arguments))
            reply = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(reply, _Failure):
            self.failed = True
            raise reply.kind(f"{self.system.name}: {reply.line}")
        return reply

    def _ended(self) -> BertlineError:
        """How the process ended, as an error."""
        self.failed = True
        self._process.join()
        return BertlineError(f"{self.system.name}: its process ended {_ending(self._process.exitcode)}")


@dataclass(frozen=True)
class _Failure:
    kind: type[BertlineError]
    line: str


def _serve(pipe: Connection, system: System, threads: int) -> None:
    """The child's side: take requests until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    inside = _Inside(system, threads)
    with suppress(Exception):  # the first request reports it
        inside.prepare()
    with suppress(EOFError, ConnectionError):
        while True:
            name, arguments = pipe.recv()
            try:
                reply = getattr(inside, name)(*arguments)
            except Exception as error:
                reply = _failure(error)
            pipe.send(reply)


class _Inside:
    """The system itself, in the child process."""

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
        """The functions that compute a batch along each path."""
        if self.system.share is None:
            return [self.runtime.run]
        return [partial(self.cascade.run, threshold=threshold) for threshold in SURE_OF_ALL_AND_OF_NONE]

    @property
    def cascade(self) -> OnnxRuntime:
        """The runtime of a cascade."""
        assert isinstance(self.runtime, OnnxRuntime), "only ONNX Runtime runs cascades"
        return self.runtime

    def asked_share(self) -> float:
        tally = self.cascade.tally
        assert tally is not None, "outputs is called first"
        return tally.asked / max(tally.texts, 1)

    def outputs(self, texts: list[Text]) -> list[Output]:
        tokenizer = self.task.tokenizer(self.system.tokenizer)
        engine, windows = Engine(self.task, tokenizer, self.runtime), tokenizer.encode(texts)
        if self.system.share is not None:
            self.cascade.tally = Tally()
        if self.system.kind == "pytorch":  # batching is faster, and does not change fp32 answers
            return engine.outputs_of(windows, by_length([len(window.input_ids) for window in windows], BATCH))
        return engine.outputs(windows)

    def alone(self, windows: list[Encoded]) -> list[Output]:
        return Engine(self.task, self.task.tokenizer(self.system.tokenizer), self.runtime).outputs(windows)

    def run(self, batch: Batch) -> Output:
        return self.runtime.run(batch)

    def read(self, texts: list[Text]) -> transformers_tokens.Reading:
        from bertline.models.pytorch import PyTorchRuntime, input_names

        assert isinstance(self.runtime, PyTorchRuntime), "only PyTorch systems have transformers"
        typed = "token_type_ids" in input_names(self.runtime.model)
        # a question too long to leave room for its context is cut first: transformers would refuse it
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
    """Seconds of each repetition: as many as fit into a turn, at least MIN_REPETITIONS, after a warm-up.

    Args:
        run: the function to time.
        warm_up_seconds, turn_seconds: the durations of both, calls of `prepare` included.
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
    """Wait until no thread of this process uses the CPU, at most one second."""
    for _ in range(20):
        before = process_time()
        sleep(0.05)
        if process_time() - before < 0.001:
            return


def peak_rss_bytes() -> int:
    """Peak resident memory of this process.

    On Linux a program inherits its parent's `ru_maxrss`, so the kernel's VmHWM is read instead, which starts afresh
    with each program.
    """
    status = Path("/proc/self/status").read_text()
    if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # gVisor has no VmHWM


def _failure(error: Exception) -> _Failure:
    """An error as one line for the parent, with the class that decides the command's exit code."""
    words = one_line(error)
    if isinstance(error, BertlineError):
        return _Failure(type(error), words)
    return _Failure(BertlineError, f"{type(error).__name__}: {words:.500}")


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"with exit code {exitcode}"
