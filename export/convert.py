"""A PyTorch classifier becomes an fp32 ONNX file. The only file that touches optimum.

optimum compares its result with PyTorch's but merely warns; here nothing is compared: see `fidelity`. The model that is
converted is loaded by the very code that the gate compares against.
"""

from pathlib import Path

from bertline.artifacts import encoder, machine
from bertline.artifacts.errors import InputError
from bertline.export.quiet import quiet

TASK = "text-classification"
"""Named to optimum always: left to guess, it silently drops the head of a local model."""


def to_onnx(model: Path, folder: Path) -> Path:
    """Write `folder`/model.onnx, the model in fp32 with its classification head.

    Args:
        model: a Hugging Face folder of a sequence classifier.
        folder: made if need be; optimum leaves copies of configuration and tokenizer beside the model.

    Raises:
        InputError: the folder is refused by `encoder.check`, has no trained head, or is of an architecture that
            optimum does not convert.
    """
    config = encoder.check(model)
    with quiet():
        from optimum.exporters.onnx import onnx_export_from_model
        from optimum.exporters.tasks import TasksManager

        from bertline.bench.pytorch import PyTorchRuntime

        known = TasksManager.get_supported_model_type_for_task(TASK, "onnx")
        if config.get("model_type") not in known:
            raise InputError(
                f"{model}: config.json: optimum cannot convert a text classifier of type "
                f"{config.get('model_type')!r}; it can: {', '.join(sorted(known))}"
            )
        loaded = PyTorchRuntime(model, machine.cores()).model
        onnx_export_from_model(loaded, folder, task=TASK, do_validation=False)
    return folder / "model.onnx"
