"""The paths and CPU classes of models sealed side by side, and the notices for readers of the figures."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from bertline.artifacts.bundle import Cascade, Fidelity, Source
from bertline.artifacts.machine import CpuClass
from bertline.artifacts.task import Decision, Long, Tokens
from bertline.export.candidates.plans import PLANS
from bertline.export.choose import Trial
from bertline.export.contest import ContestResult
from bertline.export.sealing.manifest_draft import Findings, model_files, notices
from bertline.export.sources import Origin
from tests.conftest import classifier

COMMON = "onnx/model.onnx"


def outcome(*names: str) -> ContestResult:
    """What is chosen, and what is sealed beside it."""
    plans = {plan.name: plan for plan in PLANS}
    chosen, *others = trials = [Trial(plans[name], 10, {"1x16": 1.0}) for name in names]
    return ContestResult(trials, chosen, others, {}, 0.9, {}, 40, [])


@pytest.mark.parametrize(
    ("here", "names", "expected"),
    [
        ("avx512_vnni", ["int8-signed"], []),
        ("avx2", ["int8-nncf-openvino", "int8-unsigned"], [("onnx/model_openvino.onnx", ["avx2"])]),
        ("avx512_vnni", ["int8-nncf-openvino", "int8-unsigned"], [("onnx/model_openvino.onnx", ["avx512_vnni"])]),
        ("avx512_vnni", ["int8-nncf-openvino", "int8-signed"], [("onnx/model_openvino.onnx", [])]),
        (
            "avx512_vnni",
            ["int8-nncf-openvino", "int4-weights", "int8-unsigned"],
            [
                ("onnx/model_openvino.onnx", ["avx512_vnni"]),
                ("onnx/model_int4_weights_avx512_vnni.onnx", ["avx512_vnni"]),
            ],
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


def told(origin: Origin, cascade: Cascade | None = None) -> list[str]:
    found = Findings(origin, None, None, Fidelity(max_abs_logit_diff=0.0, texts=1), outcome("int8-signed"))
    return list(notices(origin, found, cascade, "avx2", "avx2"))


def model(**settings: object) -> Origin:
    """One that needs not be there."""
    place = Path("model")
    return Origin(
        kind="model", place="model", name="model", model="model", folder=place, tokenizer=place, config={},
        settings=classifier().model_copy(update=settings), metric="accuracy", examples=[], data=None,
    )  # fmt: skip


@pytest.mark.parametrize(("long", "unit"), [("head", "texts"), ("windows", "windows")])
def test_a_cascade_is_told_by_what_it_counts(long: Long, unit: str) -> None:
    asked = Source(kind="run", place="../runs/a", model="b", weights_sha256="0" * 64)
    cascade = Cascade(threshold=0.9, share=0.25, student="int8-signed", larger="int8-signed", source=asked)
    (notice,) = told(model(tokens=Tokens(max_length=8, long=long)), cascade)
    assert f"answered 25.0% of the validation {unit}, those for which" in notice


@pytest.mark.parametrize(
    ("config", "kind", "count"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "model", 1),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "model", 1),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "model", 0),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "run", 0),
    ],
)
def test_a_sigmoid_that_others_apply_to_a_number_is_told(
    config: dict[str, object], kind: Literal["run", "model"], count: int
) -> None:
    origin = replace(model(problem_type="regression", labels=["score"]), config=config, kind=kind)
    assert [notice for notice in told(origin) if "CrossEncoder gives the sigmoid" in notice] == told(origin)
    assert len(told(origin)) == count


@pytest.mark.parametrize(("kind", "count"), [("model", 1), ("run", 0)])
def test_a_threshold_of_no_answer_is_told_where_no_run_has_tuned_it(kind: Literal["run", "model"], count: int) -> None:
    origin = replace(model(decision=Decision(no_answer_threshold=0.0)), kind=kind)
    assert len(told(origin)) == count
