"""Small ONNX models, whole and with tensors kept elsewhere."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

ROWS = 7
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]


def table(name: str = "table", rows: int = ROWS) -> TensorProto:
    """Embeddings of two values each."""
    return numpy_helper.from_array(np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2), name)


def plain(*nodes: onnx.NodeProto, tensors: tuple[TensorProto, ...] = ()) -> ModelProto:
    """Looks input_ids up (by `nodes`, else plainly) and gives the mean as two logits."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    look_up = nodes or (helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),)
    mean = helper.make_node("ReduceMean", ["looked_up"], ["logits"], axes=[1], keepdims=0)
    graph = helper.make_graph([*look_up, mean], "plain", [ids], [logits], [table(), *tensors])
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8)


def elsewhere(location: str | None = "weights.data") -> TensorProto:
    """A tensor whose data is in another file; with None one that does not say in which."""
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


def sparse(values: TensorProto, indices: TensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=values, indices=indices, dims=[4])


def here(name: str = "here") -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [1], [0])


def subgraph(tensor: TensorProto) -> GraphProto:
    return helper.make_graph([helper.make_node("Identity", [tensor.name], ["out"])], "inner", [], [], [tensor])


def function(model: ModelProto, **of: list[onnx.NodeProto] | list[onnx.AttributeProto]) -> None:
    model.functions.add(name="F", domain="local", opset_import=OPSETS, **of)


def constant(**value: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["constant"], **value)


def attribute(value: object) -> onnx.AttributeProto:
    return helper.make_attribute("value", value)


HIDE: dict[str, Callable[[ModelProto, TensorProto], object]] = {
    "initializer": lambda model, one: model.graph.initializer.append(one),
    "sparse values": lambda model, one: model.graph.sparse_initializer.append(sparse(one, here())),
    "sparse indices": lambda model, one: model.graph.sparse_initializer.append(sparse(table(), one)),
    "constant": lambda model, one: model.graph.node.insert(0, constant(value=one)),
    "sparse constant": lambda model, one: model.graph.node.insert(0, constant(sparse_value=sparse(one, here()))),
    "list of tensors": lambda model, one: model.graph.node[0].attribute.append(attribute([here(), one])),
    "list of sparse": lambda model, one: model.graph.node[0].attribute.append(attribute([sparse(one, here())])),
    "subgraph": lambda model, one: model.graph.node[0].attribute.append(attribute(subgraph(one))),
    "list of subgraphs": lambda model, one: model.graph.node[0].attribute.append(attribute([subgraph(one)])),
    "subgraph of a subgraph": lambda model, one: model.graph.node[0].attribute.append(
        attribute(helper.make_graph([helper.make_node("If", [], [], then_branch=subgraph(one))], "outer", [], []))
    ),
    "function": lambda model, one: function(model, node=[constant(value=one)]),
    "function's default": lambda model, one: function(model, attribute_proto=[attribute(one)]),
    "training": lambda model, one: model.training_info.add(initialization=subgraph(one)),
    "training's step": lambda model, one: model.training_info.add(algorithm=subgraph(one)),
}
"""Ways to put a tensor into a model, by where it stands then."""
