"""A PyTorch model becomes an fp32 ONNX file. The only file that touches optimum.

optimum compares its result with PyTorch's but merely warns; here nothing is compared: see `fidelity`. The model that is
converted is loaded by the very code that the gate compares against.
"""

from collections.abc import Mapping
from pathlib import Path

import onnx

from bertline.artifacts import encoder, imports
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import TaskSettings
from bertline.export.conversion import onnx_files
from bertline.export.quiet import quiet
from bertline.tasks import catalog


def to_onnx(model: Path, settings: TaskSettings, folder: Path) -> Path:
    """Write `folder`/model.onnx, the model in fp32 with the head of its task.

    The task is named to optimum always: left to guess, it silently drops the head of a local model.

    Args:
        model: a Hugging Face folder.
        settings: of the task it was trained for.
        folder: made if need be; optimum leaves copies of configuration and tokenizer beside the model.

    Raises:
        InputError: the folder is refused by `encoder.check`, has no trained head, or is of an architecture that
            optimum does not convert.
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
                f"does: {', '.join(sorted(known))}"
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
    """Remove each Identity that gives a weight, which is how the exporter writes one that is read in two places.

    Quantizers take a matrix for a weight only where a product reads it directly; they would leave the other product in
    fp32, and the weight in the file twice.
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
    """Let its nodes read other tensors, those in branches, too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                _rename_inputs(branch, names)
