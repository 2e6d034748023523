"""Parse an .onnx file into a tree of messages, without the onnx package.

The wire format is at https://protobuf.dev/programming-guides/encoding, the schema at
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Nothing is copied: strings and weights are views of the content.

The reader is stricter than protobuf, which skips unknown fields and merges repeated occurrences of a singular field:
here both are errors. No other reader can therefore find anything in a file that was not found here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MESSAGES = {
    "Model": "1 int ir_version, 2 bytes producer_name, 3 bytes producer_version, 4 bytes domain, 5 int model_version, "
    "6 bytes doc_string, 7 Graph graph, 8 bytes* opset_import, 14 bytes* metadata_props, "
    "20 TrainingInfo* training_info, 25 Function* functions, 26 bytes* configuration",
    "Graph": "1 Node* node, 2 bytes name, 5 Tensor* initializer, 10 bytes doc_string, 11 ValueInfo* input, "
    "12 ValueInfo* output, 13 bytes* value_info, 14 bytes* quantization_annotation, "
    "15 SparseTensor* sparse_initializer, 16 bytes* metadata_props",
    "Node": "1 bytes* input, 2 bytes* output, 3 bytes name, 4 bytes op_type, 5 Attribute* attribute, "
    "6 bytes doc_string, 7 bytes domain, 8 bytes overload, 9 bytes* metadata_props, 10 bytes* device_configurations",
    "Attribute": "1 bytes name, 2 float f, 3 int i, 4 bytes s, 5 Tensor t, 6 Graph g, 7 float* floats, 8 int* ints, "
    "9 bytes* strings, 10 Tensor* tensors, 11 Graph* graphs, 13 bytes doc_string, 14 bytes tp, 15 bytes* type_protos, "
    "20 int type, 21 bytes ref_attr_name, 22 SparseTensor sparse_tensor, 23 SparseTensor* sparse_tensors",
    "Tensor": "1 int* dims, 2 int data_type, 3 bytes segment, 4 float* float_data, 5 int* int32_data, "
    "6 bytes* string_data, 7 int* int64_data, 8 bytes name, 9 bytes raw_data, 10 double* double_data, "
    "11 int* uint64_data, 12 bytes doc_string, 13 StringStringEntry* external_data, 14 int data_location, "
    "16 bytes* metadata_props",
    "SparseTensor": "1 Tensor values, 2 Tensor indices, 3 int* dims",
    "StringStringEntry": "1 bytes key, 2 bytes value",
    "ValueInfo": "1 bytes name, 2 Type type, 3 bytes doc_string, 4 bytes* metadata_props",
    "Type": "1 TensorType tensor_type, 4 bytes sequence_type, 5 bytes map_type, 6 bytes denotation, "
    "7 bytes opaque_type, 8 bytes sparse_tensor_type, 9 bytes optional_type",
    "TensorType": "1 int elem_type, 2 TensorShape shape",
    "TensorShape": "1 bytes* dim",
    "TrainingInfo": "1 Graph initialization, 2 Graph algorithm, 3 bytes* initialization_binding, "
    "4 bytes* update_binding",
    "Function": "1 bytes name, 4 bytes* input, 5 bytes* output, 6 bytes* attribute, 7 Node* node, 8 bytes doc_string, "
    "9 bytes* opset_import, 10 bytes domain, 11 Attribute* attribute_proto, 12 bytes* value_info, 13 bytes overload, "
    "14 bytes* metadata_props",
}
"""Messages that may contain tensors or describe inputs and outputs: number, type and name of each field, with a star if
it is repeated. Other messages are left as bytes."""
WIRE_TYPES = {"int": 0, "double": 1, "float": 5}
"""Wire types by protobuf's numbers; bytes, messages and packed numbers have 2."""
MAX_DEPTH = 100
"""Maximum nesting of messages, as in protobuf's own readers."""
MAX_FIELDS = 1_000_000
"""Maximum number of fields in a file, which bounds memory. A quantized DeBERTa-v2 of 48 layers has about a quarter of
this (4,700 per layer), a BERT of 24 layers a thirtieth."""

_FIELDS = {
    message: {
        int(number): (name, kind.rstrip("*"), kind.endswith("*"))
        for number, kind, name in (field.split() for field in fields.split(", "))
    }
    for message, fields in MESSAGES.items()
}


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a type in MESSAGES: its fields by name, each with all its values in order."""

    type: str
    fields: dict[str, list[Any]]

    def all(self, name: str) -> list[Any]:
        """All values of a field: numbers, views of bytes (or of packed numbers), or messages."""
        return self.fields.get(name, [])

    def one(self, name: str) -> Any:
        """The value of a singular field; None if it is absent."""
        return next(iter(self.all(name)), None)

    def text(self, name: str) -> str:
        """The text of a singular field; "" if it is absent. Raises ValueError if it is not UTF-8."""
        return str(self.one(name) or b"", "utf-8")

    def texts(self, name: str) -> list[str]:
        """All texts of a field. Raises ValueError if one is not UTF-8."""
        return [str(one, "utf-8") for one in self.all(name)]

    def tree(self) -> "Iterator[Message]":
        """Yield this message and, recursively, all messages in it."""
        yield self
        for values in self.fields.values():
            for value in values:
                if isinstance(value, Message):
                    yield from value.tree()


def read(content: bytes) -> Message:
    """Parse the content of a file as a Model message.

    Raises:
        ValueError: the content is not an ONNX model; the message says what is wrong.
    """
    return _Reader().message(memoryview(content), "Model", 0)


def first_number(value: Any) -> int:
    """A number, or the first of packed numbers. Raises ValueError if there is none."""
    return value if isinstance(value, int) else _varint(value, 0, "number")[0]


class _Reader:
    def __init__(self) -> None:
        self.left = MAX_FIELDS

    def message(self, view: memoryview, kind: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise ValueError(f"messages lie more than {MAX_DEPTH} deep in each other")
        known, found, at = _FIELDS[kind], dict[str, list[Any]](), 0
        while at < len(view):
            tag, at = _varint(view, at, kind)
            name, of, several = known.get(tag >> 3, (None, "", False))
            if name is None:
                raise ValueError(f"{kind} has a field {tag >> 3}, which is unknown")
            if tag & 7 != WIRE_TYPES.get(of, 2) and not (several and tag & 7 == 2):
                raise ValueError(f"{kind}.{name} has the wire type {tag & 7}")
            if name in found and not several:
                raise ValueError(f"{kind}.{name} occurs twice")
            value, at = _value(view, at, tag & 7, kind)
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            found.setdefault(name, []).append(self.message(value, of, depth + 1) if of in _FIELDS else value)
        return Message(kind, found)


def _value(view: memoryview, at: int, wire: int, kind: str) -> tuple[Any, int]:
    if wire == 0:
        return _varint(view, at, kind)
    length, at = _varint(view, at, kind) if wire == 2 else ({1: 8, 5: 4}[wire], at)
    if at + length > len(view):
        raise ValueError(f"{kind} is cut off")
    return view[at : at + length], at + length


def _varint(view: memoryview, at: int, kind: str) -> tuple[int, int]:
    """Decode a varint (seven bits per byte, lowest first); return it and the position after it."""
    number = 0
    for shift, byte in enumerate(view[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128 and number < 1 << 64:
            return number, at + shift + 1
    raise ValueError(f"{kind} is cut off, or has a number of more than 64 bits")
