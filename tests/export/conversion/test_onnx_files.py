"""The guarantees for ONNX files, and external data for large models, here from 20 kB on."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertline.artifacts import bundle as bundles
from bertline.artifacts.errors import GateError
from bertline.bench.systems import System
from bertline.export import sources
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import PLANS, dynamic
from bertline.export.candidates.quantize import quantize
from bertline.export.conversion import convert, graphs, onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.export.sealing.manifest_draft import ManifestDraft
from bertline.export.sealing.seal import seal
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.tokens import Batch, Tokenizer
from tests.conftest import classifier, make_texts


def model(opset: int = 18, ir_version: int = 8, takes: str = "x") -> onnx.ModelProto:
    """y = |x|."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Abs", [takes], ["y"])], "plain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def test_a_newer_stamp_is_replaced(tmp_path: Path) -> None:
    onnx.save(model(ir_version=11), tmp_path / "model.onnx")
    onnx_files.stamp(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == model(ir_version=8)
    onnx_files.check(tmp_path / "model.onnx")


def test_nodes_come_after_all_that_their_branches_read(tmp_path: Path) -> None:
    """A graph as ONNX Runtime's quantizer leaves it: the If comes before a node that its branches read."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["late"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])],
    )
    made = model()
    made.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    del made.graph.node[:]
    made.graph.node.extend([
        helper.make_node("If", ["which"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Exp", ["early"], ["late"]),
        helper.make_node("Abs", ["x"], ["early"]),
    ])  # fmt: skip
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(GateError, match="topologically sorted"):
        onnx_files.check(tmp_path / "model.onnx")
    onnx_files.stamp(tmp_path / "model.onnx")
    onnx_files.check(tmp_path / "model.onnx")
    sorted_once = (tmp_path / "model.onnx").read_bytes()
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node] == ["Abs", "Exp", "If"]
    onnx_files.stamp(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == sorted_once


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (model(takes="nothing"), "onnx.checker refuses the model"),
        (model(opset=19), "opset 19 and IR version 8; at most 18 and 8 are allowed"),
        (model(ir_version=9), "opset 18 and IR version 9; at most 18 and 8 are allowed"),
    ],
)
def test_what_older_runtimes_would_not_open_is_not_sealed(made: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(GateError, match=words):
        onnx_files.check(tmp_path / "model.onnx")


@pytest.fixture
def batch(run: Path) -> Batch:
    tokenizer = Tokenizer(run / "best", classifier().tokens)
    return tokenizer.pad(tokenizer.encode([(row["text"], None) for row in make_texts(20)]))


@pytest.fixture
def large(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """The fp32 graph as that of a model of more than two gigabytes would be written."""
    monkeypatch.setattr(onnx_files, "ONE_FILE", 20_000)
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")  # optimum's own, for its tests
    return Graph("fp32", convert.to_onnx(run / "best", classifier(48), tmp_path / "onnx"))


def test_weights_are_counted_wherever_they_are_and_without_serializing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than two gigabytes cannot be serialized, and ByteSize does just that."""
    weights = numpy_helper.from_array(np.ones(1000, np.float32), "weights")
    ends = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
    branch = helper.make_graph([helper.make_node("Identity", ["weights"], ["y"])], "b", [], ends, [weights])
    made = model()
    made.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    made.graph.node[0].CopyFrom(helper.make_node("If", ["which"], ["y"], then_branch=branch, else_branch=branch))
    monkeypatch.setattr(onnx.ModelProto, "ByteSize", None)
    for limit, split in ((8000, False), (7999, True)):
        monkeypatch.setattr(onnx_files, "ONE_FILE", limit)
        onnx_files.save(made, tmp_path / "model.onnx")
        assert (tmp_path / "model.onnx_data").exists() is split


def int8(graph: Graph, fused: bool = False) -> Graph:
    plan = dynamic(signed=True, fused=fused)
    path = graph.path.with_name(f"{plan.name}.onnx")
    quantize(plan, graph.path, path, [])
    return Graph(plan.name, path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.onnx*"))


def test_large_graphs_are_those_of_small_ones(
    large: Graph, quantized: dict[str, Graph], fused: Graph, batch: Batch
) -> None:
    made = graphs.fuse(large, "fp32-fused")
    assert made is not None
    np.testing.assert_array_equal(OnnxRuntime(made.path, 1).run(batch), OnnxRuntime(fused.path, 1).run(batch))
    signed = int8(made, fused=True)
    expected = quantized["int8-signed-fused"].path
    np.testing.assert_array_equal(OnnxRuntime(signed.path, 1).run(batch), OnnxRuntime(expected, 1).run(batch))
    assert names(large.path.parent) == [
        "fp32-fused.onnx", "fp32-fused.onnx_data", "int8-signed-fused.onnx", "int8-signed-fused.onnx_data",
        "model.onnx", "model.onnx_data",
    ]  # fmt: skip
    assert made.path.stat().st_size < 20_000 < made.path.with_name("fp32-fused.onnx_data").stat().st_size
    system = System("", "onnxruntime", signed.path, large.path.parent, classifier())
    assert abs(system.size_bytes - expected.stat().st_size) < 5_000


def test_nncf_takes_weights_that_lie_beside_a_graph(
    large: Graph, builder: CandidateBuilder, quantized: dict[str, Graph], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights over 2 GB it takes in no other way."""
    import nncf

    given, real = [], nncf.quantize

    def noting(model: onnx.ModelProto, *arguments: Any, **settings: Any) -> onnx.ModelProto:
        given.append(model.ByteSize())
        return real(model, *arguments, **settings)

    monkeypatch.setattr(nncf, "quantize", noting)
    plan = next(plan for plan in PLANS if plan.method == "nncf")
    path = large.path.with_name(f"{plan.name}.onnx")
    quantize(plan, large.path, path, builder.texts)
    assert given == [large.path.stat().st_size]
    expected = quantized[plan.name].path
    np.testing.assert_array_equal(OnnxRuntime(path, 1).run(batch), OnnxRuntime(expected, 1).run(batch))


def test_int8_weights_that_fit_stand_in_one_file(large: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    made = int8(large)
    assert names(large.path.parent) == ["int8-signed.onnx", "model.onnx", "model.onnx_data"]
    assert not onnx_files.is_external(made.path)


def test_a_large_bundle_accounts_for_both_files_and_opens_elsewhere(
    large: Graph, bundle: tuple[Path, dict[str, Any], list[str]], run: Path, tmp_path: Path
) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification

    sealed, result, _ = bundle
    made = int8(large)
    folder = tmp_path / "bundle"
    manifest = bundles.read(sealed)
    manifest = manifest.model_copy(update={"runtime": onnx_files.describe(made.path, bundles.MODEL), "variants": []})
    seal(folder, sources.read(str(run), None), ManifestDraft(manifest, {bundles.MODEL: made}), result)
    assert names(folder / "onnx") == ["model.onnx", "model.onnx_data"]
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= {one.path for one in bundles.verify(folder).files}
    opened = ORTModelForSequenceClassification.from_pretrained(folder)
    assert getattr(opened.config, "transformers.js_config") == {"dtype": "fp32", "use_external_data_format": True}
