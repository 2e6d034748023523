"""What an ONNX graph takes and gives, what it keeps outside its file, and how many token ids its embeddings know."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bertline.artifacts import protobuf
from bertline.artifacts.protobuf import Message
from bertline.artifacts.task import TaskName

FLOAT, INT64, BOOL = 1, 7, 9
"""Element types, as ONNX numbers them."""
INPUTS = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (INT64, 2))
"""What a text gives: element type and rank, (batch, tokens); a model may leave out all but input_ids."""
OUTPUTS: dict[TaskName, dict[str, tuple[int, int]]] = {
    "text-classification": {"logits": (FLOAT, 2)},
    "token-classification": {"logits": (FLOAT, 3)},
    "question-answering": {"start_logits": (FLOAT, 2), "end_logits": (FLOAT, 2)},
}
"""What a model gives for each task."""
ASKED = "asked"
"""What a cascade gives besides: for each text, whether the student was not sure and the larger model answered."""
THRESHOLD = "threshold"
"""How sure the student of a cascade must be, an input with a default; 0 is never asking, 2 is always asking."""
LOOK_UP = {"Gather": (0, 1), "EmbedLayerNormalization": (2, 0), "QEmbedLayerNormalization": (2, 0)}
"""Operators that take rows of a table by token id: the inputs that are table and ids."""
KEEP_IDS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output holds the ids of their first input."""
KEEP_ROWS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear")
"""Operators whose output has the rows of their first input."""


class Graph(NamedTuple):
    """What is known of a graph that was found to be as it should."""

    outside: bool
    """Whether it keeps tensors in other files."""
    embedding_rows: int | None
    """Token ids that it knows: 0 up to this; None where the graph's form does not tell."""


def check(content: bytes, task: TaskName, beside: Collection[str]) -> Graph:
    """Hold an ONNX file against what a bundle's model is.

    Args:
        content: of the file.
        task: what it answers.
        beside: the files in which it may keep tensors, of its own folder.

    Raises:
        ValueError: it is no ONNX model, keeps a tensor elsewhere, or takes or gives something else.
    """
    if content[4:8] == b"ORTM":  # ONNX Runtime would read it so, whatever stands there as protobuf
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
    """Name and place of every tensor, wherever in the model, whose data is said to be elsewhere."""
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
    """What must be given: older files name their weights among the inputs as well."""
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
    """The rows of the table that input_ids are looked up in; the fewest, where there are several tables."""
    made_by = {output: node for node in graph.all("node") for output in node.texts("output")}
    rows = [_rows(table, _initializers(graph), made_by) for table in _tables(graph)]
    known = [one for one in rows if one is not None]
    return min(known) if known and len(known) == len(rows) else None


def _tables(graph: Message) -> Iterator[str]:
    """The tensors that token ids are looked up in; "" for one whose rows do not stand for ids."""
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
    """The first dimension of a tensor that stands in the file, also where it is made floating point first."""
    for _ in KEEP_ROWS:
        if name in initializers:
            dims = initializers[name].all("dims")
            return protobuf.first_number(dims[0]) if dims else None
        node = made_by.get(name)
        if node is None or node.text("op_type") not in KEEP_ROWS or not node.all("input"):
            return None
        name = node.texts("input")[0]
    return None
