"""A text in, an answer out: task, tokenizer and runtime joined.

The same engine answers for users, for the export gate and for every system that a benchmark compares; only the runtime
differs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bertline.artifacts import bundle
from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import DamagedError
from bertline.serve import variants
from bertline.serve.runtimes import RUNTIMES, Runtime
from bertline.tasks import catalog
from bertline.tasks.task import Answer, Output, Task
from bertline.tasks.tokens import Encoded, Text, Tokenizer, by_length

GOLDEN_TOLERANCE = 0.02
"""Largest |Δlogit| on a golden text that is still the same answer. An int8 kernel that saturates, on a CPU without
VNNI, is off by 0.3 and more."""


class Engine:
    """Answers texts; may be called from several threads."""

    def __init__(self, task: Task, tokenizer: Tokenizer, runtime: Runtime, notice: str | None = None) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.notice = notice
        """Why another model of the bundle than the chosen one answers."""

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> "Engine":
        """Load a bundle: what `bundle.load` checks, then an embedding for every token, then the logits of golden texts.

        Args:
            folder: the bundle.
            threads: None for one a physical core that this process may use.

        Raises:
            InputError: `folder` is no bundle.
            DamagedError: a file is not the recorded one, or this CPU answers otherwise than the one that sealed it.
        """
        manifest, models = bundle.load(folder)
        task = catalog.make(manifest)
        picked = variants.pick(manifest)
        model = models[picked.runtime.model]
        with _refusing(folder / picked.runtime.model):
            runtime = RUNTIMES[picked.runtime.name](model.content, threads)
        with _refusing(folder / "tokenizer.json"):
            engine = cls(task, task.tokenizer(folder), runtime, picked.notice)
            engine._hold_vocabulary(model.embedding_rows)
        engine._replay(manifest, picked.golden)
        return engine

    def outputs(self, windows: Sequence[Encoded], batch_size: int = 32) -> list[Output]:
        """What the model gives for each window, without padding, computed in batches of like length."""
        return self.outputs_of(windows, by_length([len(window.input_ids) for window in windows], batch_size))

    def outputs_of(self, windows: Sequence[Encoded], batches: Iterable[Sequence[int]]) -> list[Output]:
        """What the model gives for each window, without padding, computed in these batches of their indices."""
        outputs: dict[int, Output] = {}
        for indices in batches:
            rows = self.runtime.run(self.tokenizer.pad([windows[index] for index in indices]))
            for index, row in zip(indices, rows, strict=True):
                outputs[index] = row[: len(windows[index].input_ids)] if row.ndim == 2 else row
        return [outputs[index] for index in range(len(windows))]

    def predict(self, texts: Sequence[Text], batch_size: int = 32) -> list[Answer]:
        """An answer for each text, in the order asked, as the task decodes it; truncated where the text was cut off."""
        windows = self.tokenizer.encode(texts)
        answers = self.task.decode(texts, windows, self.outputs(windows, batch_size))
        for window in windows:
            if window.truncated:
                answers[window.text]["truncated"] = True
        return answers

    def logits(self, text: Text) -> list[float]:
        """All that the model gives for a text alone: int8 activations are scaled by all that a batch holds."""
        outputs = self.outputs(self.tokenizer.encode([text]), batch_size=1)
        return [float(one) for output in outputs for one in output.ravel()]

    def _hold_vocabulary(self, rows: int | None) -> None:
        if rows is not None and (largest := self.tokenizer.largest_id()) >= rows:
            raise DamagedError(f"its largest token id is {largest:,}, but the model has embeddings for {rows:,} ids")

    def _replay(self, manifest: Manifest, logits: Sequence[list[float]]) -> None:
        if not manifest.golden or len(logits) != len(manifest.golden):
            raise DamagedError(
                f"{manifest.name}: the manifest has no golden texts; nothing shows how the model answers"
            )
        for number, (golden, expected) in enumerate(zip(manifest.golden, logits, strict=True)):
            text = (golden.text, golden.text_pair)
            with _refusing(f"golden text {number}"):
                found = self.logits(text)
                self.predict([text])  # as many logits as labels
                if len(found) != len(expected):
                    raise DamagedError(f"{len(found)} logits where {len(expected)} are recorded")
            difference = np.abs(np.subtract(found, expected)).max()
            if not difference <= GOLDEN_TOLERANCE:  # NaN is not
                raise DamagedError(
                    f"golden text {number}: logits differ by {difference:.3f} from those recorded on "
                    f"{manifest.machine.cpu} ({manifest.machine.cpu_class}); this CPU or runtime answers otherwise: "
                    "export the model again here, or for this CPU's class with --target"
                )


@contextmanager
def _refusing(name: object) -> Iterator[None]:
    """Whatever fails is a fault of the bundle: neither tokenizers nor ONNX Runtime has a base class for its errors."""
    try:
        yield
    except Exception as error:
        raise DamagedError(f"{name}: {error}") from error
