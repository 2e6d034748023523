"""What computes a model's logits from a padded batch."""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from bertline.artifacts import machine
from bertline.artifacts.errors import DamagedError
from bertline.tasks.text_classification import Logits
from bertline.tasks.tokens import Batch


class Runtime(Protocol):
    """A loaded model."""

    def run(self, batch: Batch) -> Logits:
        """Logits (batch, labels) in fp32 of arrays (batch, longest)."""
        ...


class OnnxRuntime:
    """An ONNX file on ONNX Runtime's CPU provider."""

    def __init__(self, model: Path | bytes, threads: int | None = None) -> None:
        """Load a model.

        Args:
            model: path or content of an ONNX file whose first output is logits.
            threads: intra_op_num_threads; None for one a physical core that this process may use.

        Raises:
            DamagedError: ONNX Runtime cannot load it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or machine.cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors: warnings here are about the graph, which export has proven
        try:
            content = model if isinstance(model, bytes) else str(model)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no public base class for its errors
            name = "the model" if isinstance(model, bytes) else str(model)
            raise DamagedError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it ({error})") from None
        self.inputs = [one.name for one in self._session.get_inputs()]

    def run(self, batch: Batch) -> Logits:
        """Logits (batch, labels) in fp32 of arrays (batch, longest); inputs that the graph lacks are left out."""
        logits = self._session.run(None, {name: batch[name] for name in self.inputs})[0]
        return np.asarray(logits, np.float32)
