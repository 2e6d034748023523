"""A text in, an answer out: task, tokenizer and runtime joined.

Users, the export gate and every system that a benchmark compares go through the same engine; only the runtime differs.
"""

import timeit
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertline.artifacts import bundle, signature
from bertline.artifacts.errors import DamagedError
from bertline.serve import variants
from bertline.serve.runtimes import RUNTIMES, OnnxRuntime, Runtime, Tally
from bertline.tasks import catalog
from bertline.tasks.task import Answer, Output, Task
from bertline.tasks.tokens import Encoded, Text, Tokenizer

TOLERANCE = 0.02
"""Largest |Δlogit| that still counts as the same answer, as a share of the logits' standard deviation, with which int8
rounding errors grow. A saturating int8 kernel, on a CPU without VNNI, is off by 0.3 and more at a deviation of 1."""


class Engine:
    """Answers texts; may be called from several threads."""

    def __init__(self, task: Task, tokenizer: Tokenizer, runtime: Runtime) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.seconds = 0.0
        """Moving average of the seconds that a window takes, which starts at the time of a golden text; 0 if none was
        answered."""

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> "Engine":
        """Load the engine of a bundle; raises as `Bundle` and `Bundle.engine`."""
        return Bundle(folder).engine(threads)

    def outputs(self, windows: Sequence[Encoded]) -> list[Output]:
        """The model's output for each window, computed alone.

        Neither padding nor other windows take part: int8 activations are scaled by everything in a batch.
        """
        return self.outputs_of(windows, ([index] for index in range(len(windows))))

    def outputs_of(self, windows: Sequence[Encoded], batches: Iterable[Sequence[int]]) -> list[Output]:
        """The model's output for each window, without its padding, computed in the given batches of indices."""
        outputs: dict[int, Output] = {}
        for indices in batches:
            rows = self.runtime.run(self.tokenizer.pad([windows[index] for index in indices]))
            for index, row in zip(indices, rows, strict=True):
                outputs[index] = row[: len(windows[index].input_ids)] if row.ndim == 2 else row
        return [outputs[index] for index in range(len(windows))]

    def predict(self, texts: Sequence[Text]) -> list[Answer]:
        """Answer each text, in the order given, as `decode` does."""
        windows = self.tokenizer.encode(texts)
        return self.decode(texts, windows, self.outputs(windows))

    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """Decode as `Task.decode`, and set `truncated` for each text that is longer than what the model reads."""
        answers = self.task.decode(texts, windows, outputs)
        for window in windows:
            if window.truncated:
                answers[window.text]["truncated"] = True
        return answers

    def logits(self, text: Text) -> list[float]:
        """All logits of a text."""
        return flat(self.outputs(self.tokenizer.encode([text])))


class Bundle:
    """A checked bundle, and the one of its models that answers on this machine."""

    def __init__(self, folder: Path, public_key: Path | None = None) -> None:
        """Check what needs no runtime: as `bundle.load` does, then that every token has an embedding.

        Args:
            folder: the bundle.
            public_key: the key that it must be signed with, which is checked first; None accepts any bundle.

        Raises:
            InputError: `folder` is not a bundle; or as `signature.verify`.
            DamagedError: it is not signed with the key, a file differs from its recorded hash, or a token has no
                embedding.
        """
        signed = None if public_key is None else signature.verify(folder, public_key)
        self.manifest, models, json_files, self.sha256 = bundle.load(folder)
        signature.demand_same(folder, signed, self.sha256)
        picked = variants.pick(self.manifest)
        self.notice = picked.notice
        """Why a variant answers rather than the model that export chose; None if that one does."""
        self.runtime = picked.runtime
        self.packing = self.manifest.packing if picked.runtime == self.manifest.runtime else None
        """Measured only for the model that export chose."""
        self.tally = Tally()
        """Counts of a cascade, over all engines; stays at 0 for any other bundle."""
        self.task = catalog.make(self.manifest)
        with _refusing(folder / "tokenizer.json"):
            self.tokenizer = self.task.tokenizer(folder, json_files)
            self._hold_vocabulary(models[picked.runtime.model].embedding_rows)
        self._path = folder / picked.runtime.model
        self._content = models[picked.runtime.model].content
        self._golden = picked.golden

    def engine(self, threads: int | None = None, streams: int = 1) -> Engine:
        """Make an engine, and check its logits for the golden texts against those recorded when the bundle was sealed.

        Args:
            threads: cores to compute on; None for all physical cores that this process may use.
            streams: texts to compute at once, each on its share of the cores.

        Raises:
            DamagedError: the model does not load, or its logits differ from the recorded ones.
        """
        with _refusing(self._path):
            runtime = RUNTIMES[self.runtime.name](self._content, threads, streams)
        engine = Engine(self.task, self.tokenizer, runtime)
        cascade = runtime if self.is_cascade and isinstance(runtime, OnnxRuntime) else None
        if cascade is not None:
            cascade.tally = Tally()  # a temporary one: golden texts must not be counted
        self._replay(engine)
        engine.seconds = self._measure(engine)
        if cascade is not None:
            cascade.tally = self.tally
        return engine

    def let_go(self) -> None:
        """Free the model's bytes, which take as much memory as its file, once all engines are made."""
        del self._content

    @property
    def is_cascade(self) -> bool:
        """Whether the model that answers here is a cascade: a student that asks a larger model when it is unsure."""
        return self.manifest.cascade is not None and self.runtime == self.manifest.runtime

    def _hold_vocabulary(self, rows: int | None) -> None:
        if rows is not None and (largest := self.tokenizer.largest_id()) >= rows:
            raise DamagedError(f"its largest token id is {largest:,}, but the model has embeddings for {rows:,} ids")

    def _measure(self, engine: Engine) -> float:
        """Best time in seconds for the golden text of median length, once all were answered: first runs are slower."""
        golden = sorted(self.manifest.golden, key=lambda one: len(one.text) + len(one.text_pair or ""))
        middle = golden[len(golden) // 2]
        return min(timeit.repeat(lambda: engine.predict([(middle.text, middle.text_pair)]), number=1, repeat=3))

    def _replay(self, engine: Engine) -> None:
        golden = self.manifest.golden
        if not golden or len(self._golden) != len(golden):
            raise DamagedError(
                f"{self.manifest.name}: the manifest has no golden texts, so the model cannot be checked"
            )
        for number, (one, expected) in enumerate(zip(golden, self._golden, strict=True)):
            text = (one.text, one.text_pair)
            with _refusing(f"golden text {number}"):
                windows = engine.tokenizer.encode([text])
                outputs = engine.outputs(windows)
                engine.decode([text], windows, outputs)  # raises unless there are as many logits as labels
                found = flat(outputs)
                if len(found) != len(expected):
                    raise DamagedError(f"{len(found)} logits, but {len(expected)} are recorded")
            difference = np.abs(np.subtract(found, expected)).max()
            if not difference <= tolerance(np.concatenate(self._golden)):  # also refuses NaN
                raise DamagedError(
                    f"golden text {number}: logits differ by {difference:.3f} from those recorded on "
                    f"{self.manifest.machine.cpu} ({self.manifest.machine.cpu_class}); this CPU or runtime computes "
                    "differently: export the model again here, or for this CPU's class with --target"
                )


def proven(folder: Path, signed: str | None = None) -> Bundle:
    """A bundle that is read once and answers as recorded here; its model is not kept, so that it makes no more engines.

    Args:
        folder: the bundle.
        signed: sha256 of the manifest that it must have; None accepts any.

    Raises:
        InputError, DamagedError: as `Bundle` and `Bundle.engine`; or it is not the signed one.
    """
    opened = Bundle(folder)
    signature.demand_same(folder, signed, opened.sha256)
    opened.engine()
    opened.let_go()
    return opened


def tolerance(logits: npt.NDArray[np.floating]) -> float:
    """Largest accepted difference of a logit: TOLERANCE times the logits' standard deviation, or times 1 if less."""
    return TOLERANCE * max(1.0, float(np.std(logits)))


def flat(outputs: Sequence[Output]) -> list[float]:
    """All logits of all windows, concatenated."""
    return [float(one) for output in outputs for one in output.ravel()]


@contextmanager
def _refusing(name: object) -> Iterator[None]:
    """Report any failure as damage to the bundle: neither tokenizers nor ONNX Runtime has a base class for its errors.

    A panic in tokenizers, which is written in Rust, is not even an Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DamagedError(f"{name}: {error}") from error
