"""The ONNX graph as a file, and the fusion of its attention, which changes nothing that it computes."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from bertline.artifacts.bundle import RuntimeName
from bertline.export import portable
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

    The attention mask stays the input's, so that padding may stand on either side.
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
    path = graph.path.with_name(f"{name}.onnx")
    fused.topological_sort()
    portable.save(fused.model, path)
    return Graph(name, path)


def keep_sums_apart(model: onnx.ModelProto) -> None:
    """Write the Add before every LayerNormalization as Sum, which is the same and which nothing fuses."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        before = made_by.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if before is not None and before.op_type == "Add":
            before.op_type = "Sum"
