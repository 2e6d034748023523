"""What computes a model's logits from a padded batch."""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from bertline.artifacts import machine
from bertline.artifacts.errors import DamagedError
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch


class Runtime(Protocol):
    """A loaded model."""

    def run(self, batch: Batch) -> Output:
        """What the model's head gives in fp32 for arrays (batch, longest).

        (batch, labels); from a head on every token (batch, longest, labels); of starts and ends (batch, longest, 2).
        """
        ...


class OnnxRuntime:
    """An ONNX file on ONNX Runtime's CPU provider."""

    def __init__(self, model: Path | bytes, threads: int | None = None) -> None:
        """Load a model.

        Args:
            model: path or content of an ONNX file with the output logits, or start_logits and end_logits.
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
            self._session._model_bytes = None  # kept for a fallback that a CPU has not, and as large as the model
        except Exception as error:  # ONNX Runtime has no public base class for its errors
            name = "the model" if isinstance(model, bytes) else str(model)
            raise DamagedError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it ({error})") from None
        self.inputs = [one.name for one in self._session.get_inputs()]
        given = [one.name for one in self._session.get_outputs()]
        self.outputs = [name for name in ("start_logits", "end_logits") if name in given] or given[:1]

    def run(self, batch: Batch) -> Output:
        """As `Runtime.run`; inputs that the graph lacks are left out."""
        found = self._session.run(self.outputs, {name: batch[name] for name in self.inputs})
        return np.asarray(found[0] if len(found) == 1 else np.stack(found, axis=-1), np.float32)
