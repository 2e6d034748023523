"""Where models go that are sealed side by side, and the CPU classes that each is for, whatever this CPU is."""

import pytest

from bertline.artifacts.bundle import Cascade, Source
from bertline.artifacts.machine import CpuClass
from bertline.artifacts.task import Tokens
from bertline.export.candidates.plans import EXACT, PLANS
from bertline.export.choose import Trial
from bertline.export.contest import Outcome
from bertline.export.sealing.account import model_files, shared

COMMON = "onnx/model.onnx"


def outcome(*names: str) -> Outcome:
    """What is chosen, and what is sealed beside it."""
    plans = {plan.name: plan for plan in PLANS}
    chosen, *others = trials = [Trial(plans[name], 10, {"1x16": 1.0}) for name in names]
    return Outcome(trials, chosen, others, {}, 0.9, {}, 40, [])


@pytest.mark.parametrize(
    ("here", "names", "expected"),
    [
        ("avx512_vnni", ["int8-signed"], []),
        ("avx512_vnni", ["int8-signed", "int8-unsigned"], [("onnx/model_qint8_avx512_vnni.onnx", [*EXACT])]),
        ("arm64", ["int8-signed-fused", "int8-unsigned-fused"], [("onnx/model_qint8_arm64.onnx", [*EXACT])]),
        ("avx2", ["int8-static-minmax", "int8-unsigned"], [("onnx/model_qint8_avx2.onnx", ["avx2"])]),
        ("avx2", ["int8-nncf-openvino", "int8-unsigned"], [("onnx/model_openvino.onnx", ["avx2"])]),
        ("avx512_vnni", ["int8-nncf-openvino", "int8-unsigned"], [("onnx/model_openvino.onnx", ["avx512_vnni"])]),
        ("avx512_vnni", ["int8-nncf-openvino", "int8-signed"], [("onnx/model_openvino.onnx", [])]),
        (
            "avx512_vnni",
            ["int8-nncf-openvino", "int8-signed", "int8-unsigned"],
            [("onnx/model_openvino.onnx", ["avx512_vnni"]), ("onnx/model_qint8_avx512_vnni.onnx", [*EXACT])],
        ),
        (
            "avx512_vnni",
            ["int4-weights", "int8-unsigned"],
            [("onnx/model_int4_weights_avx512_vnni.onnx", ["avx512_vnni"])],
        ),
        ("avx2", ["int8-weights", "int8-unsigned"], [("onnx/model_int8_weights_avx2.onnx", ["avx2"])]),
    ],
)
def test_where_models_go(here: CpuClass, names: list[str], expected: list[tuple[str, list[CpuClass]]]) -> None:
    """The last one is what everybody opens, on any CPU."""
    *special, usual = names
    assert model_files(outcome(*names), here, COMMON) == {
        usual: (COMMON, []),
        **dict(zip(special, expected, strict=True)),
    }


def test_a_cascade_is_told_by_what_it_counts() -> None:
    asked = Source(kind="run", place="../runs/a", model="b", weights_sha256="0" * 64)
    told = Cascade(threshold=0.9, share=0.25, student="int8-signed", teacher="int8-signed", source=asked)
    for tokens, unit in ((Tokens(max_length=8), "texts"), (Tokens(max_length=8, long="windows"), "windows")):
        assert f"answered 25.0% of the validation {unit}, those that" in shared(told, tokens)[0]
