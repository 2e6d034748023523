"""A text in, an answer out: task, tokenizer and runtime joined.

The same engine answers for users, for the export gate and for every system that a benchmark compares; only the runtime
differs.
"""

import timeit
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertline.artifacts import bundle
from bertline.artifacts.errors import DamagedError
from bertline.serve import variants
from bertline.serve.runtimes import RUNTIMES, OnnxRuntime, Runtime, Tally
from bertline.tasks import catalog
from bertline.tasks.task import Answer, Output, Task
from bertline.tasks.tokens import Encoded, Text, Tokenizer

TOLERANCE = 0.02
"""Largest |Δlogit| that is still the same answer, as a share of how far logits are spread: what int8 rounds is larger
where they are. An int8 kernel that saturates, on a CPU without VNNI, is off by 0.3 and more of logits spread by 1."""


class Engine:
    """Answers texts; may be called from several threads."""

    def __init__(self, task: Task, tokenizer: Tokenizer, runtime: Runtime) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.seconds = 0.0
        """What a golden text took, where golden texts were answered."""

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> "Engine":
        """The engine of a bundle. Raises what `Bundle` and `Bundle.engine` raise."""
        return Bundle(folder).engine(threads)

    def outputs(self, windows: Sequence[Encoded]) -> list[Output]:
        """What the model gives for each window, computed alone.

        Without padding, and without neighbors: int8 activations are scaled by all that a batch holds.
        """
        return self.outputs_of(windows, ([index] for index in range(len(windows))))

    def outputs_of(self, windows: Sequence[Encoded], batches: Iterable[Sequence[int]]) -> list[Output]:
        """What the model gives for each window, without padding, computed in these batches of their indices."""
        outputs: dict[int, Output] = {}
        for indices in batches:
            rows = self.runtime.run(self.tokenizer.pad([windows[index] for index in indices]))
            for index, row in zip(indices, rows, strict=True):
                outputs[index] = row[: len(windows[index].input_ids)] if row.ndim == 2 else row
        return [outputs[index] for index in range(len(windows))]

    def predict(self, texts: Sequence[Text]) -> list[Answer]:
        """An answer for each text, in the order asked, as the task decodes it; truncated where the text was cut off."""
        windows = self.tokenizer.encode(texts)
        return self.decode(texts, windows, self.outputs(windows))

    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """As `Task.decode`, with `truncated` where a text was longer than what is read of it."""
        answers = self.task.decode(texts, windows, outputs)
        for window in windows:
            if window.truncated:
                answers[window.text]["truncated"] = True
        return answers

    def logits(self, text: Text) -> list[float]:
        """All that the model gives for a text."""
        return flat(self.outputs(self.tokenizer.encode([text])))


class Bundle:
    """A bundle that was found to be as it should, and the one of its models that answers here."""

    def __init__(self, folder: Path) -> None:
        """Check all that takes no runtime, as `bundle.load` does, then that each token has an embedding.

        Raises:
            InputError: `folder` is no bundle.
            DamagedError: a file is not the recorded one.
        """
        self.manifest, models, json_files, self.sha256 = bundle.load(folder)
        picked = variants.pick(self.manifest)
        self.notice = picked.notice
        """Why another model of the bundle than the chosen one answers."""
        self.runtime = picked.runtime
        self.packing = self.manifest.packing if picked.runtime == self.manifest.runtime else None
        """Measured of the chosen model alone."""
        self.tally = Tally()
        """What its engines have asked the larger model of a cascade; of another bundle nothing is counted."""
        self.task = catalog.make(self.manifest)
        with _refusing(folder / "tokenizer.json"):
            self.tokenizer = self.task.tokenizer(folder, json_files)
            self._hold_vocabulary(models[picked.runtime.model].embedding_rows)
        self._path = folder / picked.runtime.model
        self._content = models[picked.runtime.model].content
        self._golden = picked.golden

    def engine(self, threads: int | None = None, streams: int = 1) -> Engine:
        """An engine that has answered the golden texts as they were answered where the bundle was sealed.

        Args:
            threads: cores to compute on; None for all physical ones that this process may use.
            streams: texts that are to be computed at once, each on its share of the cores.

        Raises:
            DamagedError: the model does not load, or this CPU answers otherwise than the one that sealed it.
        """
        with _refusing(self._path):
            runtime = RUNTIMES[self.runtime.name](self._content, threads, streams)
        engine = Engine(self.task, self.tokenizer, runtime)
        cascade = runtime if self.is_cascade and isinstance(runtime, OnnxRuntime) else None
        if cascade is not None:
            cascade.tally = Tally()  # nobody asked the golden texts
        self._replay(engine)
        engine.seconds = self._measure(engine)
        if cascade is not None:
            cascade.tally = self.tally
        return engine

    def let_go(self) -> None:
        """Free the model's bytes, as many as its file has, once all engines are made."""
        del self._content

    @property
    def is_cascade(self) -> bool:
        """Whether the model that answers here is a student that asks a larger one."""
        return self.manifest.cascade is not None and self.runtime == self.manifest.runtime

    def _hold_vocabulary(self, rows: int | None) -> None:
        if rows is not None and (largest := self.tokenizer.largest_id()) >= rows:
            raise DamagedError(f"its largest token id is {largest:,}, but the model has embeddings for {rows:,} ids")

    def _measure(self, engine: Engine) -> float:
        """Seconds that the golden text of middle length takes at best, once all were answered: the first is slower."""
        golden = sorted(self.manifest.golden, key=lambda one: len(one.text) + len(one.text_pair or ""))
        middle = golden[len(golden) // 2]
        return min(timeit.repeat(lambda: engine.predict([(middle.text, middle.text_pair)]), number=1, repeat=3))

    def _replay(self, engine: Engine) -> None:
        golden = self.manifest.golden
        if not golden or len(self._golden) != len(golden):
            raise DamagedError(
                f"{self.manifest.name}: the manifest has no golden texts; nothing shows how the model answers"
            )
        for number, (one, expected) in enumerate(zip(golden, self._golden, strict=True)):
            text = (one.text, one.text_pair)
            with _refusing(f"golden text {number}"):
                windows = engine.tokenizer.encode([text])
                outputs = engine.outputs(windows)
                engine.decode([text], windows, outputs)  # as many logits as labels
                found = flat(outputs)
                if len(found) != len(expected):
                    raise DamagedError(f"{len(found)} logits where {len(expected)} are recorded")
            difference = np.abs(np.subtract(found, expected)).max()
            if not difference <= tolerance(np.concatenate(self._golden)):  # NaN is not
                raise DamagedError(
                    f"golden text {number}: logits differ by {difference:.3f} from those recorded on "
                    f"{self.manifest.machine.cpu} ({self.manifest.machine.cpu_class}); this CPU or runtime answers "
                    "otherwise: export the model again here, or for this CPU's class with --target"
                )


def tolerance(logits: npt.NDArray[np.floating]) -> float:
    """How far a logit may be off: TOLERANCE of the standard deviation of logits, or of 1 where they are spread less."""
    return TOLERANCE * max(1.0, float(np.std(logits)))


def flat(outputs: Sequence[Output]) -> list[float]:
    """All logits of all windows, one after the other."""
    return [float(one) for output in outputs for one in output.ravel()]


@contextmanager
def _refusing(name: object) -> Iterator[None]:
    """Whatever fails is a fault of the bundle: neither tokenizers nor ONNX Runtime has a base class for its errors.

    A panic of tokenizers, which are compiled of Rust, is not even an Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DamagedError(f"{name}: {error}") from error
