"""ONNX files read without the onnx package, held against that package."""

import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bertline.artifacts import protobuf
from tests.artifacts.graphs import plain


def real_fields(name: str) -> set[tuple[int, str, bool]]:
    """Number, name and whether several may stand, as the onnx package has them; a type in a type is named with both."""
    kinds = {"TensorType": "TypeProto.Tensor", "Type": "TypeProto", "TensorShape": "TensorShapeProto"}
    descriptor = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    outer, _, inner = kinds.get(name, f"{name}Proto").partition(".")
    message = descriptor[outer].nested_types_by_name[inner] if inner else descriptor[outer]
    return {(field.number, field.name, field.is_repeated) for field in message.fields}


@pytest.mark.parametrize("name", protobuf.MESSAGES)
def test_the_messages_are_those_of_onnx(name: str) -> None:
    ours = {(number, field, several) for number, (field, _, several) in protobuf._FIELDS[name].items()}
    assert ours == real_fields(name)


def test_no_message_that_holds_a_tensor_is_left_as_bytes() -> None:
    held = {"TensorProto"}
    messages = [*onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()]
    while (
        more := {one.name for one in messages if {f.message_type.name for f in one.fields if f.message_type} & held}
        - held
    ):
        held |= more
    assert held - {"SequenceProto", "MapProto", "OptionalProto"} <= {f"{name}Proto" for name in protobuf.MESSAGES}


def test_a_model_is_read_as_onnx_reads_it() -> None:
    content = plain().SerializeToString()
    found, expected = protobuf.read(content), onnx.load_from_string(content)
    graph = found.one("graph")
    assert found.one("ir_version") == expected.ir_version
    assert [node.text("op_type") for node in graph.all("node")] == [node.op_type for node in expected.graph.node]
    assert [node.texts("input") for node in graph.all("node")] == [list(node.input) for node in expected.graph.node]
    for tensor, other in zip(graph.all("initializer"), expected.graph.initializer, strict=True):
        assert (tensor.text("name"), tensor.all("dims")) == (other.name, list(other.dims))
        assert bytes(tensor.one("raw_data")) == other.raw_data


def test_weights_are_not_copied() -> None:
    weights = numpy_helper.from_array(np.zeros((1000, 2000), np.float32), "weights")
    content = helper.make_model(helper.make_graph([], "plain", [], [], [weights])).SerializeToString()
    tracemalloc.start()
    model = protobuf.read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(model.one("graph").one("initializer").one("raw_data")) == 8_000_000
    assert peak < 100_000


def field(tag: int, content: bytes) -> bytes:
    """A field of up to 16,383 bytes."""
    return bytes([tag, len(content) & 127 | 128, len(content) >> 7]) + content


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    graph = b""
    for _ in range(depth):
        graph = field(0x0A, field(0x2A, field(0x32, graph)))  # node, attribute, g
    return field(0x3A, graph)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a model", "Model has a field 13, which is unknown"),
        (b"\x08", "Model is cut off"),
        (b"\x3a\x05\x0a\x00", "Model is cut off"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x38\x01", r"Model\.graph has the wire type 0"),
        (b"\x3b", r"Model\.graph has the wire type 3"),
        (b"\x3a\x00\x3a\x00", r"Model\.graph occurs twice"),
        (nested(40), "more than 100 deep"),
        (b"\x42\x00" * (protobuf.MAX_FIELDS + 1), "more than 1,000,000 fields"),
    ],
    ids=["text", "no number", "cut off", "long number", "large number", "other type", "group", "twice", "deep", "many"],
)
def test_what_is_no_model_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        protobuf.read(content)


def test_subgraphs_may_be_nested() -> None:
    assert sum(part.type == "Graph" for part in protobuf.read(nested(20)).tree()) == 21


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_value_error(content: bytes) -> None:
    try:
        protobuf.read(content)
    except ValueError:
        return
    onnx.load_from_string(content)  # what is read here, protobuf reads too
