"""Checks of an ONNX graph: its inputs and outputs, its external data, and the number of rows of its embeddings."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bertline.artifacts import protobuf
from bertline.artifacts.protobuf import Message
from bertline.artifacts.task import TaskName

FLOAT, INT64, BOOL = 1, 7, 9
"""Element types, by ONNX's numbers."""
INPUTS = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (INT64, 2))
"""Inputs with element type and rank, (batch, tokens); only input_ids is required."""
OUTPUTS: dict[TaskName, dict[str, tuple[int, int]]] = {
    "text-classification": {"logits": (FLOAT, 2)},
    "token-classification": {"logits": (FLOAT, 3)},
    "question-answering": {"start_logits": (FLOAT, 2), "end_logits": (FLOAT, 2)},
}
"""Outputs of a model for each task, with element type and rank."""
ASKED = "asked"
"""Additional output of a cascade: for each text, whether the student was unsure and the larger model answered."""
THRESHOLD = "threshold"
"""Input of a cascade, with a default: how sure the student must be; 0 never asks the larger model, 2 always does."""
LOOK_UP = {"Gather": (0, 1), "EmbedLayerNormalization": (2, 0), "QEmbedLayerNormalization": (2, 0)}
"""Operators that look up rows of a table by token id, with the indices of their inputs for table and ids."""
KEEP_IDS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output holds the ids of their first input."""
KEEP_ROWS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear")
"""Operators whose output has the rows of their first input."""


class Graph(NamedTuple):
    """Properties of a graph that passed `check`."""

    outside: bool
    """Whether it keeps tensors in other files."""
    embedding_rows: int | None
    """Number of rows of the embeddings: token ids must be smaller. None where the graph does not show it."""


def check(content: bytes, task: TaskName, beside: Collection[str]) -> Graph:
    """Check that an ONNX file has the form of a bundle's model.

    Args:
        content: the bytes of the file.
        task: the task of the model.
        beside: names of the files in its folder, in which it may keep tensors.

    Raises:
        ValueError: it is not an ONNX model, keeps a tensor elsewhere, or has other inputs or outputs.
    """
    if content[4:8] == b"ORTM":  # ONNX Runtime reads this as its own format, even if it is valid protobuf
        raise ValueError("in ONNX Runtime's own format; a bundle holds ONNX")
    model = protobuf.read(content)
    outside = list(_outside(model))
    for tensor, place in outside:
        if place not in beside:
            raise ValueError(f"its tensor {tensor!r} is kept in {place!r}, which is no file of the bundle beside it")
    graph = model.one("graph") or Message("Graph", {})
    _hold("takes", _inputs(graph), INPUTS, required=["input_ids"])
    cascade = {ASKED: (BOOL, 1)} if task == "text-classification" else {}
    _hold("gives", _ports(graph.all("output")), OUTPUTS[task] | cascade, required=list(OUTPUTS[task]))
    return Graph(bool(outside), _embedding_rows(graph))


def _outside(model: Message) -> Iterator[tuple[str, str]]:
    """Yield name and location of every tensor, anywhere in the model, whose data is external."""
    for part in model.tree():
        if part.type == "Tensor" and (part.all("external_data") or part.one("data_location")):
            places = [entry.text("value") for entry in part.all("external_data") if entry.text("key") == "location"]
            yield from ((part.text("name"), place) for place in places or [""])


class _Port(NamedTuple):
    name: str
    element_type: int
    rank: int | None

    def __str__(self) -> str:
        return f"{self.name!r} (element type {self.element_type}, rank {self.rank})"


def _ports(infos: list[Message]) -> list[_Port]:
    found = []
    for info in infos:
        kind = info.one("type") or Message("Type", {})
        tensor = kind.one("tensor_type") or Message("TensorType", {})
        shape = tensor.one("shape")
        rank = None if shape is None else len(shape.all("dim"))
        found.append(_Port(info.text("name"), tensor.one("elem_type") or 0, rank))
    return found


def _inputs(graph: Message) -> list[_Port]:
    """The inputs to be fed; older files list their weights among the inputs as well."""
    weights = _initializers(graph)
    return [port for port in _ports(graph.all("input")) if port.name not in weights]


def _hold(verb: str, found: list[_Port], known: Mapping[str, tuple[int, int]], required: list[str]) -> None:
    for port in found:
        if (expected := known.get(port.name)) is None:
            raise ValueError(f"it {verb} {port}; {', '.join(known)} is what a model of this task {verb}")
        if expected != port[1:]:
            raise ValueError(f"it {verb} {port}; element type {expected[0]} and rank {expected[1]} are expected")
    names = [port.name for port in found]
    for name in required:
        if names.count(name) != 1:
            raise ValueError(f"it {verb} {', '.join(names) or 'nothing'}; {name} is expected, once")


def _initializers(graph: Message) -> dict[str, Message]:
    return {tensor.text("name"): tensor for tensor in graph.all("initializer")}


def _embedding_rows(graph: Message) -> int | None:
    """The number of rows of the table that input_ids are looked up in; the fewest, if there are several tables."""
    made_by = {output: node for node in graph.all("node") for output in node.texts("output")}
    rows = [_rows(table, _initializers(graph), made_by) for table in _tables(graph)]
    known = [one for one in rows if one is not None]
    return min(known) if known and len(known) == len(rows) else None


def _tables(graph: Message) -> Iterator[str]:
    """Yield the names of the tensors that token ids are looked up in; "" for a lookup along another axis."""
    ids = {"input_ids"}
    for node in graph.all("node"):
        operator, inputs = node.text("op_type"), dict(enumerate(node.texts("input")))
        if operator in KEEP_IDS and inputs.get(0) in ids:
            ids.update(node.texts("output"))
        elif operator in LOOK_UP and inputs.get(LOOK_UP[operator][1]) in ids:
            yield "" if _axis(node) else inputs.get(LOOK_UP[operator][0], "")


def _axis(node: Message) -> int:
    axes = [one.one("i") or 0 for one in node.all("attribute") if one.text("name") == "axis"]
    return axes[0] if axes else 0


def _rows(name: str, initializers: Mapping[str, Message], made_by: Mapping[str, Message]) -> int | None:
    """The first dimension of a stored tensor, also if it is cast or dequantized first; None if it is computed."""
    for _ in KEEP_ROWS:
        if name in initializers:
            dims = initializers[name].all("dims")
            return protobuf.first_number(dims[0]) if dims else None
        node = made_by.get(name)
        if node is None or node.text("op_type") not in KEEP_ROWS or not node.all("input"):
            return None
        name = node.texts("input")[0]
    return None
