"""What is done where no candidate is right, on a model that int8 breaks in one layer."""

import shutil
from pathlib import Path

import onnx
import pytest
from safetensors.numpy import load_file, save_file

from bertline.artifacts import bundle as bundles
from bertline.artifacts import files
from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.export.candidates import quantize, sensitivity
from bertline.export.candidates.graphs import Graph
from bertline.export.candidates.plans import PLANS, dynamic
from bertline.export.candidates.workshop import Workshop
from bertline.export.contest import remedies
from bertline.export.export import export
from bertline.export.terms import Terms
from tests.export.conftest import measure_briefly

LOUD = 3000.0
"""How much larger one channel of the last layer is made, and the weights that read it smaller: int8, with a scale for
all channels, then sees no other."""


@pytest.fixture
def broken(run: Path, tmp_path: Path) -> Path:
    """The run, its fp32 model the same function, with one layer whose activations eight bits cannot hold."""
    folder = RunFolder(Path(shutil.copytree(run, tmp_path / "runs/broken")))
    weights = {name: tensor.copy() for name, tensor in load_file(folder.best / "model.safetensors").items()}
    for name in ("weight", "bias"):
        weights[f"bert.encoder.layer.1.output.LayerNorm.{name}"][0] *= LOUD
    weights["bert.pooler.dense.weight"][:, 0] /= LOUD
    save_file(weights, folder.best / "model.safetensors", {"format": "pt"})
    summary = read_summary(folder.path).model_copy(update={"files": files.listing(folder.best)})
    files.write_json(folder.summary, summary.model_dump(mode="json"))
    return folder.path


def test_the_layer_that_int8_breaks_is_left_in_fp32(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    said: list[str] = []
    result = export(str(broken), tmp_path / "bundle", Terms(0.03, quick=True), say=said.append)
    name, _, share = result["chosen"].partition("-mixed-")
    assert share in ("25", "50")  # both are right, and as fast
    assert "none is right: trying what is slower, but loses less" in said
    tried = {one.name: one for one in bundles.verify(tmp_path / "bundle").candidates}
    drop = tried[name].drop
    assert drop is not None
    assert drop > 0.03


def test_layers_are_ranked_by_what_their_quantization_changes(workshop: Workshop, fp32: Graph) -> None:
    ranked = sensitivity.ranked(fp32.path, workshop.texts[:4], dynamic(True, False))
    layers = [own[0].split("/attention")[0] for own in ranked]
    assert {"/bert/encoder/layer.0", "/bert/encoder/layer.1"} < set(layers)
    assert [len(own) for own, layer in zip(ranked, layers, strict=True) if "layer" in layer] == [8, 8]


def test_a_node_that_is_not_there_is_an_error(workshop: Workshop, fp32: Graph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nodes to leave in fp32: /nowhere: no node of model\.onnx has that name"):
        quantize.quantize(dynamic(True, False), fp32.path, tmp_path / "out.onnx", [], ["/nowhere"])


def test_remedies_are_other_calibrations_and_layers_in_fp32() -> None:
    static = next(plan for plan in PLANS if plan.name == "int8-static-minmax")
    assert [plan.name for plan in remedies(static)] == [
        "int8-static-entropy",
        "int8-static-percentile",
        "int8-static-minmax-mixed-25",
        "int8-static-minmax-mixed-50",
    ]
    assert [plan.fp32_share for plan in remedies(dynamic(True, True))] == [0.25, 0.5]


def test_what_is_left_in_fp32_is_a_product_of_floats(workshop: Workshop) -> None:
    plan = remedies(dynamic(True, False))[0]
    nodes = {node.name: node.op_type for node in onnx.load(workshop.make(plan).path).graph.node}
    kept = sensitivity.ranked(workshop.fp32.path, workshop.texts, plan)[0]
    assert all(nodes.get(name, nodes.get(f"{name}_MatMul")) in ("MatMul", "Gemm") for name in kept)
    assert "MatMulInteger" in nodes.values()
