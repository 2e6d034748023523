"""What computes a model's logits from a padded batch: ONNX Runtime, or OpenVINO where it is installed."""

import importlib.util
import io
from pathlib import Path
from threading import Lock, local
from typing import Protocol

import numpy as np

from bertline.artifacts import machine
from bertline.artifacts.bundle import RuntimeName
from bertline.artifacts.errors import DamagedError
from bertline.artifacts.graph import ASKED, THRESHOLD
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch


class Runtime(Protocol):
    """A loaded model; may be called from several threads."""

    def run(self, batch: Batch) -> Output:
        """What the model's head gives in fp32 for arrays (batch, longest); inputs that the graph lacks are left out.

        (batch, labels); from a head on every token (batch, longest, labels); of starts and ends (batch, longest, 2).
        """
        ...


class Tally:
    """What became of the texts of a cascade, or their windows, counted by any number of threads."""

    def __init__(self) -> None:
        self.texts = 0
        self.asked = 0
        """Of them, those that the student was not sure of, so that the larger model answered."""
        self._lock = Lock()

    def add(self, asked: Output) -> None:
        """Count a batch, (batch,) bool."""
        with self._lock:
            self.texts += len(asked)
            self.asked += int(asked.sum())


class OnnxRuntime:
    """An ONNX file on ONNX Runtime's CPU provider."""

    def __init__(self, model: Path | bytes, threads: int | None = None, streams: int = 1) -> None:
        """Load a model.

        Args:
            model: path or content of an ONNX file with the output logits, or start_logits and end_logits.
            threads: cores to compute on; None for all physical ones that this process may use.
            streams: calls that are to be computed at once, each on its share of the cores.

        Raises:
            DamagedError: ONNX Runtime cannot load it.
        """
        import onnxruntime  # here, since a bundle may need OpenVINO alone

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, (threads or machine.cores()) // streams)
        options.inter_op_num_threads = 1
        # else its threads spin on after an answer for longer than that took, and an autoscaler sees a load that is none
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors: warnings here are about the graph, which export has proven
        try:
            content = model if isinstance(model, bytes) else str(model)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self._session._model_bytes = None  # kept for a fallback that a CPU has not, and as large as the model
        except Exception as error:  # ONNX Runtime has no public base class for its errors
            raise DamagedError(
                f"{_name(model)}: ONNX Runtime {onnxruntime.__version__} cannot load it ({error})"
            ) from None
        self.inputs = [one.name for one in self._session.get_inputs()]
        self.outputs = _heads([one.name for one in self._session.get_outputs()])
        self.tally: Tally | None = None
        """Where the texts of a cascade are to be counted."""

    def run(self, batch: Batch, threshold: float | None = None) -> Output:
        """As `Runtime.run`; of a cascade, with another threshold than its own."""
        given: dict[str, object] = {name: batch[name] for name in self.inputs}
        if threshold is not None:
            given[THRESHOLD] = np.array(threshold, np.float32)
        if self.tally is None:
            return _join(self._session.run(self.outputs, given))
        *found, asked = self._session.run([*self.outputs, ASKED], given)
        self.tally.add(asked)
        return _join(found)


class OpenVino:
    """An ONNX file on OpenVINO's CPU plugin, which computes an fp32 model in bf16 where the CPU does so natively."""

    def __init__(self, model: Path | bytes, threads: int | None = None, streams: int = 1) -> None:
        """Load a model.

        Args:
            model: as `OnnxRuntime` takes it, and so the others.
            threads: cores to compute on.
            streams: calls that are to be computed at once.

        Raises:
            DamagedError: OpenVINO cannot load it.
        """
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads or machine.cores(),
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # every process would pin its threads to the same first cores
            "CACHE_DIR": "",  # nothing is written but where the user says
        }
        core = openvino.Core()
        try:
            graph = core.read_model(io.BytesIO(model) if isinstance(model, bytes) else str(model))
            is_int8 = any(one.get_type_name() == "FakeQuantize" for one in graph.get_ops())
            if is_int8 and (
                isinstance(model, bytes) or model.suffix == ".onnx"
            ):  # benchmarks take OpenVINO's format, too
                settings["INFERENCE_PRECISION_HINT"] = "f32"  # or CPUs with bf16 answer differently from those without
            self._model = core.compile_model(graph, "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError and others of its own
            raise DamagedError(f"{_name(model)}: OpenVINO {openvino.__version__} cannot load it ({error})") from None
        self.inputs = [one.any_name for one in self._model.inputs]
        self.outputs = _heads([one.any_name for one in self._model.outputs])
        self._of_thread = local()  # a request holds the tensors of one call

    def run(self, batch: Batch) -> Output:
        """As `Runtime.run`."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._model.create_infer_request()
        found = self._of_thread.request.infer({name: batch[name] for name in self.inputs})
        return _join([found[name] for name in self.outputs])


RUNTIMES: dict[RuntimeName, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def installed(name: RuntimeName) -> bool:
    """Whether this Python has a runtime; onnxruntime it always has."""
    return importlib.util.find_spec(name) is not None


def _heads(outputs: list[str]) -> list[str]:
    return [name for name in ("start_logits", "end_logits") if name in outputs] or outputs[:1]


def _join(found: list[Output]) -> Output:
    return np.array(found[0] if len(found) == 1 else np.stack(found, axis=-1), np.float32)


def _name(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else str(model)
