"""A text in, an answer out: tokenizer, runtime and labels joined.

The same engine answers for users, for the export gate and for every system that a benchmark compares; only the runtime
differs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertline.artifacts import bundle
from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import DamagedError
from bertline.serve.runtimes import OnnxRuntime, Runtime
from bertline.tasks import text_classification
from bertline.tasks.text_classification import Logits
from bertline.tasks.tokens import Encoded, Text, Tokenizer, by_length

GOLDEN_TOLERANCE = 0.02
"""Largest |Δlogit| on a golden text that is still the same answer. An int8 kernel that saturates, on a CPU without
VNNI, is off by 0.3 and more."""


class Engine:
    """Answers texts; may be called from several threads."""

    def __init__(self, tokenizer: Tokenizer, runtime: Runtime, labels: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.labels = list(labels)

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
        tokenizer = Tokenizer(folder, manifest.tokens.max_length)
        engine = cls(tokenizer, OnnxRuntime(folder / manifest.runtime.model, threads), manifest.labels)
        engine._replay(manifest)
        return engine

    def logits(self, texts: Sequence[Text], batch_size: int = 32) -> Logits:
        """Logits (texts, labels) in the order asked, computed in batches of like length."""
        return self._logits(self.tokenizer.encode(texts), batch_size)

    def predict(self, texts: Sequence[Text], batch_size: int = 32) -> list[dict[str, Any]]:
        """An answer for each text, in the order asked: label, score, scores, and truncated where it was cut off."""
        encoded = self.tokenizer.encode(texts)
        answers = text_classification.decode(self._logits(encoded, batch_size), self.labels)
        return [
            {**answer, "truncated": True} if one.truncated else answer
            for answer, one in zip(answers, encoded, strict=True)
        ]

    def _logits(self, encoded: Sequence[Encoded], batch_size: int) -> Logits:
        logits = np.empty((len(encoded), len(self.labels)), np.float32)
        for indices in by_length([len(one.input_ids) for one in encoded], batch_size):
            logits[indices] = self.runtime.run(self.tokenizer.pad([encoded[index] for index in indices]))
        return logits

    def _replay(self, manifest: Manifest) -> None:
        for number, golden in enumerate(manifest.golden):
            found = self.logits([(golden.text, golden.text_pair)])[0]
            if (difference := np.abs(found - golden.logits).max()) > GOLDEN_TOLERANCE:
                raise DamagedError(
                    f"golden text {number}: logits differ by {difference:.3f} from those recorded on "
                    f"{manifest.machine.cpu} ({manifest.machine.cpu_class}); this CPU or runtime answers otherwise: "
                    "export the model again here, or for this CPU's class with --target"
                )
