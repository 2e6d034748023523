"""Finds the layers of a graph that int8 hurts most: quantizes each alone and measures how far the logits move.

The word embeddings count as a layer if the plan quantizes them.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from bertline.export.candidates.plans import Plan
from bertline.export.candidates.quantize import PRODUCTS, looks_up_words, quantize
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.tokens import Batch

LAYER = re.compile(r"(.*?layers?[._]\d+)/|(.*)/")
"""The prefix of a node's name: the encoder layer it belongs to, or the module, outside of the layers."""


def rank(fp32: Path, texts: Sequence[Batch], plan: Plan) -> list[list[str]]:
    """The names of each layer's quantized nodes, ordered by how far quantizing the layer moves the logits, most first.

    Args:
        fp32: the graph.
        texts: arrays (1, length) to measure with.
        plan: determines the type of the weights.
    """
    layers: dict[str, list[str]] = {}
    nodes = onnx.load(fp32, load_external_data=False).graph.node
    for node in nodes:
        if node.op_type in PRODUCTS or (plan.method == "dynamic" and looks_up_words(node)):
            found = LAYER.match(node.name)
            layers.setdefault(found[0] if found else node.name, []).append(node.name)
    alone = Plan("alone", "dynamic", signed=plan.signed, reduce_range=plan.reduce_range)
    path = fp32.with_name(f"{alone.name}.onnx")
    expected = _logits(fp32, texts)
    effects = {}
    for layer, own in layers.items():
        quantize(alone, fp32, path, [], [node.name for node in nodes if node.name not in own])
        effects[layer] = float(
            np.mean([np.abs(a - b).mean() for a, b in zip(_logits(path, texts), expected, strict=True)])
        )
    path.unlink(missing_ok=True)
    return [layers[layer] for layer in sorted(layers, key=lambda layer: -effects[layer])]


def _logits(path: Path, texts: Sequence[Batch]) -> list[np.ndarray]:
    runtime = OnnxRuntime(path)
    return [runtime.run(text) for text in texts]
