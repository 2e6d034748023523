"""An ONNX graph as a file, and the fusion of its attention, which does not change what it computes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from bertline.artifacts.bundle import RuntimeName
from bertline.export.conversion import onnx_files
from bertline.export.quiet import quiet


@dataclass(frozen=True)
class Graph:
    """An ONNX file, its name in tables, and the runtime it is for."""

    name: str
    path: Path
    runtime: RuntimeName = "onnxruntime"


def fuse(graph: Graph, name: str) -> Graph | None:
    """Fuse each layer's attention into one operator; None if ONNX Runtime has no fusion for the architecture.

    Its other fusions are off, since ONNX Runtime's CPU kernels for them were measured to be slower (fused graph, int8,
    MiniLM on AVX-512 VNNI: 8.8 ms against 7.4 ms at 128 tokens):

    - BiasGelu: the quantized product before it adds the bias anyway, and Gelu alone takes half the time.
    - Attention, with query, key and value in one product, becomes QAttention, which multiplies bytes head by head:
      75 ms of 119 at 512 tokens (Zen 4, one thread), while MultiHeadAttention and three products take 71 of 111.
    - SkipLayerNormalization takes four times as long as Add and LayerNormalization. When ONNX Runtime loads a model, it
      makes one from every Add before a LayerNormalization, but not from a Sum.

    Attention reads the raw mask, so padding may be on either side; without padding it reads no mask.
    """
    with quiet():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.optimizer import optimize_model

        options = FusionOptions("bert")
        options.use_raw_attention_mask()
        options.use_multi_head_attention = True
        options.enable_bias_gelu = False
        options.enable_embed_layer_norm = False
        options.enable_skip_layer_norm = False
        options.enable_bias_skip_layer_norm = False
        fused = optimize_model(str(graph.path), "bert", opt_level=0, optimization_options=options)
    if fused.get_fused_operator_statistics()["MultiHeadAttention"] == 0:
        return None
    if all(one.domain != "com.microsoft" for one in fused.model.opset_import):
        fused.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    keep_sums_apart(fused.model)
    spare_the_mask(fused.model.graph)
    path = graph.path.with_name(f"{name}.onnx")
    fused.topological_sort()
    onnx_files.save(fused.model, path)
    return Graph(name, path)


def keep_sums_apart(model: onnx.ModelProto) -> None:
    """Replace the Add before every LayerNormalization with the equivalent Sum, which nothing fuses."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        before = made_by.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if before is not None and before.op_type == "Add":
            before.op_type = "Sum"


def spare_the_mask(graph: onnx.GraphProto) -> None:
    """Compute attention without its mask whenever a batch has no padding, by a branch that is chosen at run time.

    Without a mask, ONNX Runtime uses flash attention, which never stores all attention weights: a single text took 9 %
    less time (geometric mean of 16 to 512 tokens, MiniLM in int8 on Zen 4). The fusion passes the mask as
    `key_padding_mask`, the fifth input.
    """
    masks = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] == "attention_mask"}
    whole = "nothing_is_padded"
    nodes = [_branch(node, whole) if _is_masked(node, masks) else node for node in graph.node]
    if nodes == list(graph.node):
        return
    one = onnx.numpy_helper.from_array(np.array(1, np.int64), "real_token")
    condition = [
        onnx.helper.make_node("ReduceMin", ["attention_mask"], ["least_of_mask"], "least_of_mask", keepdims=0),
        onnx.helper.make_node("Equal", ["least_of_mask", one.name], [whole], whole),
    ]
    del graph.node[:]
    graph.node.extend([*condition, *nodes])
    graph.initializer.append(one)


def _is_masked(node: onnx.NodeProto, masks: set[str]) -> bool:
    return node.op_type == "MultiHeadAttention" and len(node.input) == 5 and node.input[4] in masks


def _branch(attention: onnx.NodeProto, whole: str) -> onnx.NodeProto:
    """An If that computes the attention without its mask if `whole`, otherwise unchanged."""
    branches = {}
    for branch, inputs in (("then_branch", attention.input[:4]), ("else_branch", attention.input)):
        node = onnx.NodeProto()
        node.CopyFrom(attention)
        del node.input[:]
        node.input.extend(inputs)
        node.output[0] = f"{attention.output[0]}_{branch}"
        output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        branches[branch] = onnx.helper.make_graph([node], f"{attention.name}_{branch}", [], [output])
    return onnx.helper.make_node("If", [whole], attention.output, f"{attention.name}_If", **branches)
