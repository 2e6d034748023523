"""ONNX files that many runtimes can open: their opset and IR version, and external data for large weights."""

import shutil
from collections.abc import Iterator
from graphlib import TopologicalSorter
from math import prod
from pathlib import Path

import onnx

from bertline.artifacts.bundle import RuntimeSpec
from bertline.artifacts.errors import GateError

OPSET = 18
"""The oldest opset that optimum guarantees its conversions for, of ONNX 1.13 (December 2022)."""
IR_VERSION = 8
"""The file format of that ONNX release."""
FOUR_BITS = (21, 10)
"""The first opset and IR version with four-bit types, of ONNX 1.16 (March 2024)."""
ONE_FILE = 2_000_000_000
"""The most bytes of weights in one file: a protobuf message has at most 2**31, of which the graph needs some."""


def stamp(path: Path) -> None:
    """Give a file the IR version that it needs, where its writer stamped a newer one, and sort its nodes."""
    model = onnx.load(path, load_external_data=False)
    _, version = _versions(model)
    if sort_nodes(model.graph) or model.ir_version != version:
        model.ir_version = version
        onnx.save(model, path)


def _versions(model: onnx.ModelProto) -> tuple[int, int]:
    """The highest opset and IR version that a model may have."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    return FOUR_BITS if onnx.TensorProto.INT4 in kinds else (OPSET, IR_VERSION)


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Put every node after those whose outputs it reads; returns whether any had to be moved.

    ONNX Runtime's quantizer does not look into branches (DeBERTa's layers have some), and may place nodes after an If
    that reads their outputs. ONNX Runtime loads such a file, but the ONNX standard forbids it.
    """
    made_by = {output: index for index, node in enumerate(graph.node) for output in node.output}
    needs = {
        index: [made_by[name] for name in _reads(node) if name in made_by] for index, node in enumerate(graph.node)
    }
    if all(need < index for index, all_of in needs.items() for need in all_of):
        return False
    nodes = [graph.node[index] for index in TopologicalSorter(needs).static_order()]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names of a node's inputs and of those inside its branches, including names that the branches define."""
    yield from node.input
    for attribute in node.attribute:
        for branch in (attribute.g, *attribute.graphs):
            for inner in branch.node:
                yield from _reads(inner)


def is_external(path: Path) -> bool:
    """Whether any weights of the model are in a file beside it."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return any(one.data_location == onnx.TensorProto.EXTERNAL for one in tensors)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to one file, or its weights to PATH_data beside it if they exceed ONE_FILE.

    optimum and transformers.js look for that name. `model` may hold no weights afterwards.
    """
    data = path.with_name(f"{path.name}_data")
    data.unlink(missing_ok=True)  # onnx.save would append to it
    onnx.save(model, path, save_as_external_data=_weight_bytes(model.graph) > ONE_FILE, location=data.name)


def _weight_bytes(graph: onnx.GraphProto) -> int:
    """The bytes of all tensors, branches included; protobuf's ByteSize fails over 2 GB."""
    inner = [attribute for node in graph.node for attribute in node.attribute]
    own = [*graph.initializer, *(one.t for one in inner)]
    branches = [branch for one in inner for branch in (one.g, *one.graphs)]
    return sum(map(_bytes, own)) + sum(map(_weight_bytes, branches))


def _bytes(tensor: onnx.TensorProto) -> int:
    if not tensor.data_type:  # the attribute is not a tensor
        return 0
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * prod(tensor.dims))


def pack(path: Path) -> None:
    """Rewrite a model with `save` if ONNX Runtime's quantizer wrote its weights to a separate file."""
    if (data := path.with_name(f"{path.name}.data")).exists():
        model = onnx.load(path)
        data.unlink()
        save(model, path)


def copy(source: Path, target: Path) -> None:
    """Copy a model with its weights; an external data file is named after the target."""
    if is_external(source):
        save(onnx.load(source), target)
    else:
        shutil.copyfile(source, target)


def describe(path: Path, place: str) -> RuntimeSpec:
    """The manifest's entry for the file, which will be at `place` in the bundle."""
    model = onnx.load(path, load_external_data=False)
    opset = next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return RuntimeSpec(model=place, opset=opset, ir_version=model.ir_version)


def check(path: Path) -> None:
    """Check that a file is valid ONNX and that older runtimes can open it.

    Raises:
        GateError: onnx.checker refuses it, or its opset or IR version is higher than its data types need.
    """
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise GateError(f"{path.name}: onnx.checker refuses the model ({error}); no bundle was made") from None
    found = describe(path, path.name)
    opset, version = _versions(onnx.load(path, load_external_data=False))
    if found.opset > opset or found.ir_version > version:
        raise GateError(
            f"{path.name}: opset {found.opset} and IR version {found.ir_version}; at most {opset} and {version} are "
            "allowed, so that older runtimes can open the bundle; no bundle was made"
        )
