"""Which candidates are made, and why the others are not."""

import pytest

from bertline.artifacts.errors import InputError
from bertline.artifacts.machine import CpuClass
from bertline.export.candidates.plans import PLANS, Situation, select
from bertline.export.options import ExportOptions


def situation(
    here: CpuClass = "avx512_vnni", openvino: bool = True, fused: str | None = None, **options: object
) -> Situation:
    return Situation(ExportOptions(0.01, **options), here, fused, openvino)  # type: ignore[arg-type]


def names(found: Situation) -> set[str]:
    return {plan.name for plan in select(found)[0]}


def test_every_plan_has_a_name_of_its_own() -> None:
    assert len({plan.name for plan in PLANS}) == len(PLANS)


@pytest.mark.parametrize("here", ["avx2", "avx512_vnni", "arm64"])
def test_what_is_not_tried_is_told_with_the_reason(here: CpuClass) -> None:
    tried, notices = names(situation(here)), select(situation(here))[1]
    assert all(
        plan.name in tried or any(f" {plan.name}," in f"{notice.replace(':', ',')}," for notice in notices)
        for plan in PLANS
    )
    assert all(notice.startswith(("not tried: ", "signed weights have seven bits: ")) for notice in notices)


@pytest.mark.parametrize(
    ("here", "target", "saturates"),
    [
        ("avx2", "auto", "avx2"),
        ("avx512", "avx512", "avx512"),
        ("avx512_vnni", "avx2", "avx2"),
        ("avx512", "avx512_vnni", "avx512"),
        ("avx512_vnni", "auto", None),
        ("avx512_vnni", "arm64", None),
        ("arm64", "auto", None),
    ],
)
def test_a_bit_is_given_up_only_where_a_cpu_saturates(here: CpuClass, target: str, saturates: str | None) -> None:
    """Either CPU counts, this one and the target: the candidate must answer alike on both."""
    tried, notices = select(situation(here, target=target))
    told = [notice for notice in notices if notice.startswith("signed weights have seven bits")]
    assert {plan.name for plan in tried if plan.reduce_range} == (
        {plan.name for plan in tried if plan.signed} if saturates else set()
    )
    assert [f"CPUs of class {saturates} saturate" in notice for notice in told] == [True] * bool(saturates)


def test_what_cannot_saturate_is_right_everywhere() -> None:
    def everywhere(here: CpuClass) -> set[str]:
        return {plan.name for plan in select(situation(here))[0] if plan.right_everywhere}

    assert everywhere("avx2") - everywhere("avx512_vnni") == {"int8-signed", "int8-signed-fused", "int8-static-minmax"}
    assert "int8-unsigned" in everywhere("avx512_vnni")


@pytest.mark.parametrize("here", ["avx2", "avx512_vnni", "arm64"])
def test_one_signed_file_is_portable(here: CpuClass) -> None:
    """Signed weights are the faster ones; with eight bits, each CPU class would need a file of its own."""
    plans, notices = select(situation(here, portable=True))
    assert all(plan.right_everywhere for plan in plans if plan.signed and plan.runtime == "onnxruntime")
    assert any(notice.startswith("signed weights have seven bits") for notice in notices)


def test_weights_alone_are_quantized_for_size() -> None:
    small = {"int4-weights", "int8-weights", "int8-signed-fused-per-tensor"}
    assert small < names(situation(prefer="size"))
    assert not small & names(situation())


def test_without_openvino_its_candidates_are_left_out() -> None:
    assert "int8-nncf-openvino" in names(situation())
    without = situation(openvino=False)
    assert not any("openvino" in name for name in names(without))
    assert any("'.[export,openvino]'" in notice for notice in select(without)[1])


def test_another_target_leaves_out_what_it_computes_otherwise() -> None:
    found = names(situation(target="avx2", prefer="size"))
    assert {"int8-unsigned-fused", "int8-signed-fused", "int8-static-minmax"} < found
    assert not any("openvino" in name or "weights" in name for name in found)
    assert "int8-weights" in names(situation(target="avx512_vnni", prefer="size"))
    with pytest.raises(InputError, match="--only int4-weights: weight-only quantization's answers on a CPU"):
        select(situation(only=("int4-weights",), target="avx2"))


def test_quick_tries_the_usual_winners() -> None:
    assert names(situation(quick=True)) == {"fp32", "int8-signed-fused"}
    assert names(situation(quick=True, fused="none")) == {"fp32", "int8-signed"}
    assert names(situation("arm64", quick=True)) == {"fp32", "int8-signed-fused", "int8-unsigned-fused"}


def test_only_what_is_named_is_tried_with_fp32_to_compare() -> None:
    assert names(situation(only=("int8-unsigned",))) == {"fp32", "int8-unsigned"}
    with pytest.raises(InputError, match="--only int9: no such candidate; there are fp32, fp32-fused"):
        select(situation(only=("int9",)))
    with pytest.raises(InputError, match="--only int8-nncf-openvino: OpenVINO's answers on a CPU of class avx2"):
        select(situation(only=("int8-nncf-openvino",), target="avx2"))
    with pytest.raises(InputError, match="--only fp32-fused: no fusion"):
        select(situation(only=("fp32-fused",), fused="no fusion"))
