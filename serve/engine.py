"""A text in, an answer out: task, tokenizer and runtime joined.

The same engine answers for users, for the export gate and for every system that a benchmark compares; only the runtime
differs.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bertline.artifacts import bundle
from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import DamagedError
from bertline.serve.runtimes import OnnxRuntime, Runtime
from bertline.tasks import catalog
from bertline.tasks.task import Answer, Output, Task
from bertline.tasks.tokens import Encoded, Text, Tokenizer, by_length

GOLDEN_TOLERANCE = 0.02
"""Largest |Δlogit| on a golden text that is still the same answer. An int8 kernel that saturates, on a CPU without
VNNI, is off by 0.3 and more."""


class Engine:
    """Answers texts; may be called from several threads."""

    def __init__(self, task: Task, tokenizer: Tokenizer, runtime: Runtime) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.runtime = runtime

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> "Engine":
        """Load a bundle: its files are held against the manifest, then its golden texts are answered again.

        Args:
            folder: the bundle.
            threads: None for one a physical core that this process may use.

        Raises:
            InputError: `folder` is no bundle.
            DamagedError: a file is not the recorded one, or this CPU answers otherwise than the one that sealed it.
        """
        manifest = bundle.verify(folder)
        task = catalog.make(manifest)
        engine = cls(task, task.tokenizer(folder), OnnxRuntime(folder / manifest.runtime.model, threads))
        engine._replay(manifest)
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

    def _replay(self, manifest: Manifest) -> None:
        for number, golden in enumerate(manifest.golden):
            found = self.logits((golden.text, golden.text_pair))
            if (difference := np.abs(np.subtract(found, golden.logits)).max()) > GOLDEN_TOLERANCE:
                raise DamagedError(
                    f"golden text {number}: logits differ by {difference:.3f} from those recorded on "
                    f"{manifest.machine.cpu} ({manifest.machine.cpu_class}); this CPU or runtime answers otherwise: "
                    "export the model again here, or for this CPU's class with --target"
                )
