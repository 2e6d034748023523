"""ONNX files that many runtimes open: which opset and IR version, and where weights lie that one file cannot hold."""

import shutil
from collections.abc import Iterator
from graphlib import TopologicalSorter
from math import prod
from pathlib import Path

import onnx

from bertline.artifacts.bundle import RuntimeSpec
from bertline.artifacts.errors import GateError

OPSET = 18
"""The oldest that optimum promises its conversions for, of ONNX 1.13 (December 2022)."""
IR_VERSION = 8
"""The file format of that ONNX release."""
FOUR_BITS = (21, 10)
"""The opset and IR version that know numbers of four bits, of ONNX 1.16 (March 2024)."""
ONE_FILE = 2_000_000_000
"""Bytes of weights: a protobuf message ends at 2**31, and has room for the graph beside these."""


def stamp(path: Path) -> None:
    """Write the IR version into a file whose writer may have stamped it with a newer one, though it uses nothing of it.

    Nodes are put in order as well: see `sort_nodes`.
    """
    model = onnx.load(path, load_external_data=False)
    _, version = _versions(model)
    if sort_nodes(model.graph) or model.ir_version != version:
        model.ir_version = version
        onnx.save(model, path)


def _versions(model: onnx.ModelProto) -> tuple[int, int]:
    """The opset and IR version that a model may need at most."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    return FOUR_BITS if onnx.TensorProto.INT4 in kinds else (OPSET, IR_VERSION)


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Put every node after those that make what it reads; whether one had to be moved.

    ONNX Runtime's quantizer does not look into branches (DeBERTa's layers have some), and leaves nodes behind an If
    that reads what they make; ONNX Runtime loads that, the ONNX standard forbids it.
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
    """What a node reads, also from within its branches; names that those make for themselves are among it."""
    yield from node.input
    for attribute in node.attribute:
        for branch in (attribute.g, *attribute.graphs):
            for inner in branch.node:
                yield from _reads(inner)


def is_external(path: Path) -> bool:
    """Whether weights of the model lie in a file beside it."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return any(one.data_location == onnx.TensorProto.EXTERNAL for one in tensors)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to one file, or its weights to PATH_data beside it where they are over ONE_FILE.

    The name is the one that optimum and transformers.js look for. `model` holds no weights afterwards.
    """
    data = path.with_name(f"{path.name}_data")
    data.unlink(missing_ok=True)  # or it would grow
    onnx.save(model, path, save_as_external_data=_weight_bytes(model.graph) > ONE_FILE, location=data.name)


def _weight_bytes(graph: onnx.GraphProto) -> int:
    """Of its tensors, those of branches included; protobuf's ByteSize would serialize them, and cannot over 2 GB."""
    inner = [attribute for node in graph.node for attribute in node.attribute]
    own = [*graph.initializer, *(one.t for one in inner)]
    branches = [branch for one in inner for branch in (one.g, *one.graphs)]
    return sum(map(_bytes, own)) + sum(map(_weight_bytes, branches))


def _bytes(tensor: onnx.TensorProto) -> int:
    if not tensor.data_type:  # of an attribute that is no tensor
        return 0
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * prod(tensor.dims))


def pack(path: Path) -> None:
    """Write a file as `save` does if ONNX Runtime's quantizer split it in two."""
    if (data := path.with_name(f"{path.name}.data")).exists():
        model = onnx.load(path)
        data.unlink()
        save(model, path)


def copy(source: Path, target: Path) -> None:
    """Copy a model with its weights; what lies beside it follows the new name."""
    if is_external(source):
        save(onnx.load(source), target)
    else:
        shutil.copyfile(source, target)


def describe(path: Path, place: str) -> RuntimeSpec:
    """What the manifest says of the file, which is to lie at `place` in the bundle."""
    model = onnx.load(path, load_external_data=False)
    opset = next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return RuntimeSpec(model=place, opset=opset, ir_version=model.ir_version)


def check(path: Path) -> None:
    """Hold a file against what is promised of it.

    Raises:
        GateError: onnx.checker refuses it, or it needs a newer runtime than its numbers do.
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
            "sealed, so that older runtimes open the bundle; no bundle was made"
        )
