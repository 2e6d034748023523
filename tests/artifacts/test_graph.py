"""What is known of an ONNX graph before anything runs it."""

from collections.abc import Callable

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from bertline.artifacts import graph
from bertline.artifacts.graph import Graph
from tests.artifacts.graphs import HIDE, ROWS, elsewhere, plain, table


def check(model: ModelProto, *beside: str) -> Graph:
    return graph.check(model.SerializeToString(), "text-classification", beside)


def test_a_plain_graph_passes() -> None:
    assert check(plain()) == Graph(outside=False, embedding_rows=ROWS)


@pytest.mark.parametrize("where", HIDE)
def test_a_tensor_kept_elsewhere_is_found_wherever_it_stands(where: str) -> None:
    model = plain()
    HIDE[where](model, elsewhere())
    with pytest.raises(ValueError, match=r"tensor 'elsewhere' is kept in 'weights\.data', which is no file"):
        check(model, "other.data")
    assert check(model, "weights.data").outside


@pytest.mark.parametrize(
    "location", [None, "", "/etc/passwd", "../config.json", "./weights.data", "*/_ORT_MEM_ADDR_/*", "weights.data\0"]
)
def test_a_place_is_a_listed_name_or_refused(location: str | None) -> None:
    model = plain(tensors=(elsewhere(location),))
    with pytest.raises(ValueError, match="is kept in"):
        check(model, "weights.data", "config.json")


def test_a_place_counts_whatever_else_is_said_of_the_data() -> None:
    tensor = table("other")
    tensor.external_data.add(key="location", value="weights.data")
    tensor.external_data.add(key="location", value="/etc/passwd")  # one reader takes the first, another the last
    for location in (TensorProto.DEFAULT, TensorProto.EXTERNAL):
        tensor.data_location = location
        with pytest.raises(ValueError, match="'/etc/passwd'"):
            check(plain(tensors=(tensor,)), "weights.data")


def test_onnx_runtimes_own_format_is_refused_even_where_it_is_onnx_as_well() -> None:
    hidden = b"\x12\x06\x00\x00ORTM" + plain().SerializeToString()  # producer_name holds what ONNX Runtime looks for
    onnx.load_from_string(hidden)
    with pytest.raises(ValueError, match="ONNX Runtime's own format"):
        graph.check(hidden, "text-classification", ())


def port(name: str, kind: int = TensorProto.INT64, shape: list[str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


PAIR = ["batch", "length"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda g: g.input.append(port("position_ids", shape=PAIR)), r"it takes 'position_ids' .+; input_ids, atten"),
        (lambda g: g.input.append(port("attention_mask", TensorProto.FLOAT, PAIR)), r"element type 1, rank 2\); elem"),
        (lambda g: g.input.append(port("attention_mask", shape=["batch"])), r"rank 1\); element type 7 and rank 2"),
        (lambda g: g.input.append(port("attention_mask")), "rank None"),
        (lambda g: g.input.append(onnx.ValueInfoProto(name="attention_mask")), "element type 0, rank None"),
        (lambda g: g.input.pop(), "it takes nothing; input_ids is expected, once"),
        (lambda g: g.input.append(g.input[0]), "it takes input_ids, input_ids; input_ids is expected, once"),
        (lambda g: g.output.pop(), "it gives nothing; logits is expected"),
        (lambda g: g.output.append(port("looked_up", TensorProto.FLOAT, PAIR)), "it gives 'looked_up'"),
        (lambda g: setattr(g.output[0], "name", "scores"), "it gives 'scores'"),
        (lambda g: setattr(g.output[0].type.tensor_type, "elem_type", 11), r"'logits' \(element type 11, rank 2\)"),
        (lambda g: g.output[0].type.tensor_type.shape.dim.add(), r"'logits' \(element type 1, rank 3\)"),
    ],
)
def test_other_inputs_and_outputs_are_refused(change: Callable[[onnx.GraphProto], object], told: str) -> None:
    model = plain()
    change(model.graph)
    with pytest.raises(ValueError, match=told):
        check(model)


def test_weights_may_be_named_among_the_inputs() -> None:
    """As files of before IR version 4 do."""
    model = plain()
    model.graph.input.append(port("table", TensorProto.FLOAT, PAIR))
    assert check(model).embedding_rows == ROWS


def node(operator: str, inputs: list[str], output: str = "looked_up", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


LOOK_UP = node("Gather", ["table", "input_ids"])
SMALL = table("small", 3)


@pytest.mark.parametrize(
    ("nodes", "rows"),
    [
        ([LOOK_UP], ROWS),
        ([node("Cast", ["input_ids"], "int32", to=6), node("Gather", ["table", "int32"])], ROWS),
        ([node("DequantizeLinear", ["table", "scale"], "real"), node("Gather", ["real", "input_ids"])], ROWS),
        ([node("EmbedLayerNormalization", ["input_ids", "", "table"])], ROWS),
        ([LOOK_UP, node("Gather", ["small", "input_ids"], "other")], 3),
        ([LOOK_UP, node("Add", ["input_ids", "one"], "more"), node("Gather", ["small", "more"], "other")], ROWS),
        ([LOOK_UP, node("Shape", ["input_ids"], "shape"), node("Gather", ["shape", "one"], "other")], ROWS),
        ([node("Gather", ["table", "input_ids"], axis=1)], None),
        ([node("Transpose", ["table"], "turned"), node("Gather", ["turned", "input_ids"])], None),
        ([LOOK_UP, node("Gather", ["made", "input_ids"], "other")], None),
        ([node("Add", ["input_ids", "one"], "more"), node("Gather", ["table", "more"])], None),
        ([node("EmbedLayerNormalization", ["input_ids"])], None),
        ([node("Identity", ["loop"], "loop"), node("Gather", ["loop", "input_ids"])], None),
    ],
)
def test_embedding_rows_are_told_or_none(nodes: list[onnx.NodeProto], rows: int | None) -> None:
    assert check(plain(*nodes, tensors=(SMALL,))).embedding_rows == rows
