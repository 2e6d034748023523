"""A cascade: a student answers the texts it is sure of, and a larger model the rest, in one ONNX file.

The larger model is the student's teacher, or a larger student of the same teacher.

The choice is a branch of the graph itself, so any ONNX runtime computes it, and a text that the student is sure of
costs only the student. The student is sure if its largest probability is at least a threshold (the maximum softmax
probability of Hendrycks and Gimpel, arXiv 1610.02136), set on validation texts to the lowest that passes the gate. The
threshold is an input with a default value, which a measurement can override.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bertline.artifacts import bundle
from bertline.artifacts.graph import ASKED, THRESHOLD
from bertline.export.conversion import onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.tasks.task import Output

SHARES = tuple(round(0.05 * step, 2) for step in range(1, 13))
"""The shares of the texts to try sending to the larger model; with more than these, the student would hardly pay."""
LARGER = "larger/"
"""The prefix of the names of the larger model's tensors."""


class Setting(NamedTuple):
    """How sure a student must be to answer itself."""

    threshold: float
    """The lowest probability of its label at which it answers itself."""
    share: float
    """The share of the validation texts that it was less sure of."""


def read_asked(folder: Path) -> Graph:
    """The model of a bundle that cascades ask: the one for ONNX Runtime, named after its candidate."""
    manifest = bundle.verify(folder)
    models = {manifest.chosen.name: manifest.runtime, **{one.candidate: one.runtime for one in manifest.variants}}
    return next(Graph(name, folder / one.model) for name, one in models.items() if one.name == "onnxruntime")


def lowest(
    student: Sequence[Output], larger: Sequence[Output], passes: Callable[[list[Output]], bool]
) -> Setting | None:
    """The lowest threshold such that the cascade passes with it and with all higher ones tried; None if there is none.

    Testing from the highest down and stopping at the first that fails needs no correction for several comparisons:
    the order of the hypotheses is fixed beforehand (Maurer, Hothorn and Lehmacher, 1995).

    Args:
        student, larger: logits (labels,) of each window.
        passes: whether outputs pass the gate.
    """
    sure, found = np.array([sureness(logits) for logits in student]), None
    for share in reversed(SHARES):
        threshold = float(np.float32(np.quantile(sure, share)))
        both = [own if one >= threshold else other for one, own, other in zip(sure, student, larger, strict=True)]
        if not passes(both):
            break
        found = Setting(threshold, round(float(np.mean(sure < threshold)), 4))
    return found


def sureness(logits: Output) -> np.float32:
    """The largest probability, computed as in the graph."""
    odds = np.exp(logits - logits.max(), dtype=np.float32)
    return np.float32(odds.max() / odds.sum())


def join(student: Path, larger: Path, threshold: float, path: Path) -> None:
    """Join two models with the same tokenizer and labels into one.

    Args:
        student, larger: ONNX files with the output logits (batch, labels).
        threshold: see `Setting`.
        path: the file to write, with the outputs `logits` and `asked`, (batch,): whether the larger model answered.
    """
    model, other = onnx.load(student), onnx.load(larger)
    known = {(one.domain, one.version) for one in model.opset_import}
    model.opset_import.extend(one for one in other.opset_import if (one.domain, one.version) not in known)
    graph = model.graph
    (logits,) = graph.output
    _rename(graph, logits.name, own := f"student_{logits.name}")
    asking = _inside(other.graph, graph)
    graph.initializer.append(numpy_helper.from_array(np.array(threshold, np.float32), THRESHOLD))
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "last_axis"))
    graph.input.append(helper.make_tensor_value_info(THRESHOLD, TensorProto.FLOAT, []))
    asking.node.append(helper.make_node("Where", ["unsure", asking.output[0].name, own], ["asked_logits"], "whose"))
    asking.output[0].CopyFrom(helper.make_tensor_value_info("asked_logits", TensorProto.FLOAT, None))
    kept = helper.make_tensor_value_info("kept_logits", TensorProto.FLOAT, None)
    alone = helper.make_graph([helper.make_node("Identity", [own], [kept.name], "keep")], "alone", [], [kept])
    graph.node.extend(
        [
            helper.make_node("Softmax", [own], ["probabilities"], "probabilities", axis=-1),
            helper.make_node("ReduceMax", ["probabilities", "last_axis"], ["sureness"], "sureness", keepdims=1),
            helper.make_node("Less", ["sureness", THRESHOLD], ["unsure"], "unsure"),
            helper.make_node("Squeeze", ["unsure", "last_axis"], [ASKED], ASKED),
            helper.make_node("Cast", ["unsure"], ["unsure_numbers"], "unsure_numbers", to=TensorProto.INT32),
            helper.make_node("ReduceMax", ["unsure_numbers"], ["any_unsure_number"], "any_unsure_number", keepdims=0),
            helper.make_node("Cast", ["any_unsure_number"], ["any_unsure"], "any_unsure", to=TensorProto.BOOL),
            helper.make_node("If", ["any_unsure"], [logits.name], "cascade", then_branch=asking, else_branch=alone),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(ASKED, TensorProto.BOOL, ["batch_size"]))
    onnx_files.save(model, path)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor in the graph's nodes; the graph's output keeps the old name."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _inside(larger: onnx.GraphProto, student: onnx.GraphProto) -> onnx.GraphProto:
    """The larger model's graph as a branch, which shares the student's inputs and any identical weights."""
    held = {_content(one): one.name for one in student.initializer}
    names = {one.name: held.get(_content(one), LARGER + one.name) for one in larger.initializer}
    own = [one for one in larger.initializer if names[one.name].startswith(LARGER)]
    branch = onnx.GraphProto()
    branch.CopyFrom(larger)
    del branch.initializer[:], branch.input[:], branch.value_info[:]
    branch.initializer.extend(own)
    return onnx.compose.add_prefix_graph(branch, LARGER, name_map=names, inplace=True)


def _content(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    return tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()
