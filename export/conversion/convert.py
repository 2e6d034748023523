"""Converts a PyTorch model to an fp32 ONNX file. The only module that uses optimum.

optimum's own validation only warns, so it is turned off: the `fidelity` gate compares instead. The model is loaded by
the same code as the one that the gate compares with.
"""

from collections.abc import Mapping
from pathlib import Path

import onnx

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import TaskSettings
from bertline.export.conversion import onnx_files
from bertline.export.quiet import quiet
from bertline.models import imports
from bertline.tasks import catalog


def to_onnx(model: Path, settings: TaskSettings, folder: Path) -> Path:
    """Write `folder`/model.onnx, the model in fp32 with the head of its task.

    optimum is always told the task: left to guess, it silently drops the head of a local model.

    Args:
        model: a Hugging Face folder.
        settings: the task it was trained for.
        folder: made if missing; optimum leaves copies of the configuration and tokenizer beside the model.

    Raises:
        InputError: `encoder.check` refuses the folder, the model has no trained head, or optimum does not convert its
            architecture.
    """
    config = encoder.check(model)
    with quiet():
        with imports.lean():
            from optimum.exporters.onnx import onnx_export_from_model
            from optimum.exporters.tasks import TasksManager

            from bertline.models import pytorch

        known = TasksManager.get_supported_model_type_for_task(settings.task, "onnx")
        if config.get("model_type") not in known:
            raise InputError(
                f"{model}: config.json: optimum does not convert {config.get('model_type')!r} for {settings.task}; it "
                f"converts {', '.join(sorted(known))}"
            )
        loaded = pytorch.load(model, catalog.make(settings).architecture)
        onnx_export_from_model(loaded, folder, task=settings.task, opset=onnx_files.OPSET, do_validation=False)
    path = folder / "model.onnx"
    exported = onnx.load(path, load_external_data=False)
    read_weights_directly(exported.graph)
    onnx.save(exported, path)
    onnx_files.stamp(path)
    return path


def read_weights_directly(graph: onnx.GraphProto) -> None:
    """Remove each Identity of a weight, which the exporter writes for a weight that is used twice.

    Quantizers recognize a weight only as a direct input of a product: they would leave the other product in fp32, and
    store the weight twice.
    """
    weights = {one.name for one in graph.initializer}
    given = {one.name for one in graph.output}
    copies = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in weights and node.output[0] not in given
    }
    nodes = [node for node in graph.node if node.output[0] not in copies]
    del graph.node[:]
    graph.node.extend(nodes)
    _rename_inputs(graph, copies)


def _rename_inputs(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename the inputs of the nodes in a graph, branches included."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                _rename_inputs(branch, names)
