"""The ONNX graph as a file, and the fusion of its attention, which changes nothing that it computes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from bertline.artifacts.bundle import RuntimeName
from bertline.export.conversion import onnx_files
from bertline.export.quiet import quiet


@dataclass(frozen=True)
class Graph:
    """An ONNX file under the name it has in tables, for the runtime that is to compute it."""

    name: str
    path: Path
    runtime: RuntimeName = "onnxruntime"


def fuse(graph: Graph, name: str) -> Graph | None:
    """Join each layer's attention into one operator; None where ONNX Runtime does not know the architecture.

    What it could fuse besides is left alone, since ONNX Runtime's CPU kernels for it were measured to be slower (fused
    graph, int8, MiniLM on AVX-512 VNNI: 8.8 ms against 7.4 ms at 128 tokens):

    - BiasGelu: the quantized product before it adds the bias anyway, and Gelu alone takes half the time.
    - Attention, with query, key and value in one product, becomes QAttention, which multiplies its bytes head by head:
      75 ms of 119 at 512 tokens (Zen 4, one thread) where MultiHeadAttention and three products take 71 of 111.
    - SkipLayerNormalization takes four times as long as an addition and LayerNormalization. ONNX Runtime makes one of
      every Add before a LayerNormalization when it loads a model, but not of a Sum.

    The attention mask stays the input's, so that padding may stand on either side. Where there is none it is spared.
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
    """Write the Add before every LayerNormalization as Sum, which is the same and which nothing fuses."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        before = made_by.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if before is not None and before.op_type == "Add":
            before.op_type = "Sum"


def spare_the_mask(graph: onnx.GraphProto) -> None:
    """Leave the mask out of attention where nothing is padded, by a branch that is taken while the model runs.

    Without one ONNX Runtime attends block by block (flash attention), and never writes all weights of all tokens: a
    text alone took 9 % less time (geometric mean of 16 to 512 tokens, MiniLM in int8 on Zen 4). The fusion gives the
    mask as `key_padding_mask`, the fifth input.
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
    """The same attention without its mask if `whole`, else as it is."""
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
