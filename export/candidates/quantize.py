"""Quantizes graphs: dynamically or statically with ONNX Runtime, statically with NNCF, or only the weights.

Nothing here decides what is good: every result is measured later.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bertline.artifacts.errors import InputError
from bertline.export.candidates.plans import Plan
from bertline.export.conversion import onnx_files
from bertline.export.quiet import quiet
from bertline.tasks.tokens import Batch

PRODUCTS = ["MatMul", "Gemm"]
BLOCK = 32
"""The number of weights that share a scale in weight-only quantization."""


def quantize(plan: Plan, fp32: Path, path: Path, texts: Sequence[Batch], keep: Sequence[str] = ()) -> None:
    """Quantize the fp32 graph as a plan says, and write it to `path`.

    Args:
        plan: the plan of a quantized candidate.
        fp32: the graph, fused if the plan says so.
        path: the file to write.
        texts: arrays (1, length) of calibration texts, for static quantization.
        keep: names of nodes that stay in fp32.

    Raises:
        InputError: `keep` names a node that the graph does not have.
    """
    model = onnx.load(fp32, load_external_data=False)
    if unknown := set(keep) - {node.name for node in model.graph.node}:
        raise InputError(f"nodes to leave in fp32: {', '.join(sorted(unknown))}: no node of {fp32.name} has that name")
    with quiet():
        METHODS[plan.method](plan, fp32, path, texts, list(keep))
    onnx_files.stamp(path)


def _dynamic(plan: Plan, fp32: Path, path: Path, texts: Sequence[Batch], keep: list[str]) -> None:
    """Int8 weights per channel or per tensor; activations are quantized to u8 while the model runs.

    An embedding table gets a single scale. The small tables of positions and types stay in fp32: the largest value of
    MiniLM's first position is 1.87, of the others at most 0.18, for which only a few int8 values would be left.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(fp32, load_external_data=False).graph
    quantize_dynamic(
        fp32,
        path,
        per_channel=plan.per_channel,
        reduce_range=plan.reduce_range,
        weight_type=QuantType.QInt8 if plan.signed else QuantType.QUInt8,
        # a Gemm is first replaced by a MatMul of another name, which must be excluded too
        nodes_to_exclude=[
            *keep,
            *(f"{name}_MatMul" for name in keep),
            *(node.name for node in graph.node if node.op_type == "Gather" and not looks_up_words(node)),
        ],
        use_external_data_format=onnx_files.is_external(fp32),
        # shape inference does not know the output types of fused operators
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    onnx_files.pack(path)


def looks_up_words(node: onnx.NodeProto) -> bool:
    """Whether a node looks up rows of a table by token id."""
    return bool(node.op_type == "Gather" and node.input[1] == "input_ids")


def _static(plan: Plan, fp32: Path, path: Path, texts: Sequence[Batch], keep: list[str]) -> None:
    """QDQ nodes before the products with weights, u8 by s8, with scales from calibration texts.

    Attention's products and the outputs of all products stay in fp32: sums, normalizations and the logits would
    otherwise be limited to 256 values.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load(fp32, load_external_data=False).graph
    quantize_static(
        fp32,
        path,
        _Reader(_inputs(fp32, texts)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        reduce_range=plan.reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[*keep, *attention_products(graph)],
        use_external_data_format=onnx_files.is_external(fp32),
        extra_options={
            "OpTypesToExcludeOutputQuantization": PRODUCTS,
            # add activations to the histograms after every text, instead of holding those of all texts in memory
            "CalibStridedMinMax": 1,
        },
        calibrate_method={
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }[plan.calibration],
    )
    onnx_files.pack(path)


def _nncf(plan: Plan, fp32: Path, path: Path, texts: Sequence[Batch], keep: list[str]) -> None:
    """NNCF's post-training quantization for transformers: smoothed activations, QDQ nodes placed for OpenVINO.

    OpenVINO computes attention in one pass if its products are fp32, and multiplies u8 by s8 faster than s8 by s8:
    MiniLM took 9 % less time with the first, 14 % with both (geometric mean of 16 to 512 tokens, AVX-512 without VNNI).
    """
    import nncf
    from nncf.onnx.quantization.backend_parameters import BackendParameters

    model = onnx.load(fp32, load_external_data=False)  # NNCF refuses loaded weights over 2 GB
    quantized = nncf.quantize(
        model,
        nncf.Dataset(_inputs(fp32, texts)),
        subset_size=len(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE if plan.reduce_range else None,
            backend_params={BackendParameters.EXTERNAL_DATA_DIR: str(fp32.parent.resolve())},
        ),
        ignored_scope=nncf.IgnoredScope(names=[*keep, *attention_products(model.graph)]),
    )
    make_activations_unsigned(quantized.graph)
    onnx_files.save(quantized, path)


def attention_products(graph: onnx.GraphProto) -> list[str]:
    """The names of the products that have no weight as an input."""
    weights = {one.name for one in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and weights.isdisjoint(node.input)]


def make_activations_unsigned(graph: onnx.GraphProto) -> None:
    """Change QuantizeLinear's output from s8 to u8 by raising its zero point by 128; the values it stands for stay."""
    del graph.value_info[:]  # it would still say s8
    zero_points = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    for one in graph.initializer:
        if one.name in zero_points and one.data_type == onnx.TensorProto.INT8:
            shifted = numpy_helper.to_array(one).astype(np.int16) + 128
            one.CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), one.name))


def _weights(plan: Plan, fp32: Path, path: Path, texts: Sequence[Batch], keep: list[str]) -> None:
    """Weight-only quantization in blocks; weights are expanded at every run. Embeddings too, with four bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,  # activations as int8
        op_types_to_quantize=("MatMul", "Gather") if plan.bits == 4 else ("MatMul",),
        bits=plan.bits,
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(fp32), algo_config=config, nodes_to_exclude=keep)
    quantizer.process()
    onnx_files.save(quantizer.model.model, path)


METHODS: dict[str, Callable[[Plan, Path, Path, Sequence[Batch], list[str]], None]] = {
    "dynamic": _dynamic,
    "static": _static,
    "nncf": _nncf,
    "weights": _weights,
}


class _Reader:
    """The texts, one at a time, as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._range = iter(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Continue with this slice of the texts."""
        self._range = iter(self._batches[start_index:end_index])

    def get_next(self) -> Batch | None:
        return next(self._range, None)


def _inputs(fp32: Path, texts: Sequence[Batch]) -> list[Batch]:
    """The arrays of each text that the graph has as inputs."""
    names = {one.name for one in onnx.load(fp32, load_external_data=False).graph.input}
    return [{name: array for name, array in text.items() if name in names} for text in texts]
