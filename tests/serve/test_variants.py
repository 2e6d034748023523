"""Which of a bundle's models answers, by the class of the CPU."""

from pathlib import Path

import pytest

from bertline.artifacts import bundle, machine
from bertline.artifacts.bundle import RuntimeSpec, Variant
from bertline.artifacts.machine import CpuClass
from bertline.serve import variants


@pytest.mark.parametrize(
    ("here", "model"),
    [("avx512_vnni", "onnx/signed.onnx"), ("arm64", "onnx/signed.onnx"), ("avx2", bundle.MODEL), ("x86", bundle.MODEL)],
)
def test_the_first_model_that_is_for_this_class_answers(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, here: str, model: str
) -> None:
    classes: list[CpuClass] = ["avx512_vnni", "arm64"]
    signed = RuntimeSpec(model="onnx/signed.onnx", opset=17, ir_version=8, cpu_classes=classes)
    everywhere = Variant(candidate="int8-unsigned", runtime=RuntimeSpec(opset=17, ir_version=8), golden=[[0.0, 1.0]])
    manifest = bundle.read(sealed).model_copy(update={"runtime": signed, "variants": [everywhere]})
    monkeypatch.setattr(machine, "cpu_class", lambda: here)
    picked = variants.pick(manifest)
    assert picked.runtime.model == model
    assert (picked.notice is None) == (model != bundle.MODEL)


def test_a_class_that_none_is_for_takes_the_first(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = RuntimeSpec(opset=17, ir_version=8, cpu_classes=["arm64"])
    monkeypatch.setattr(machine, "cpu_class", lambda: "avx2")
    assert variants.pick(bundle.read(sealed).model_copy(update={"runtime": only})).runtime == only
