"""Which layers of a graph lose most by int8: each is quantized alone, and what that changes is measured.

The embeddings of words are one of them, where a plan quantizes these.
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
"""A layer of the encoder, as torch names its nodes; of what stands outside of them, the module."""


def rank(fp32: Path, texts: Sequence[Batch], plan: Plan) -> list[list[str]]:
    """What is quantized of each layer by name, the layer first whose quantization moves the logits most.

    Args:
        fp32: the graph.
        texts: arrays (1, length) to measure with.
        plan: whose kind of weights is tried.
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
