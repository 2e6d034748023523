"""Which candidate passes, which is best, and why, on made-up figures."""

from dataclasses import replace

import pytest

from bertline.export.candidates.plans import PLANS, Plan
from bertline.export.choose import Score, Trial, candidates, doubt, fault, order, table
from bertline.export.options import ExportOptions


def plan(name: str) -> Plan:
    return next((one for one in PLANS if one.name == name), Plan(name, "dynamic"))


def score(drop: float, wide: float = 0.004, examples: int = 2000) -> Score:
    return Score(0.85 - drop, drop, (drop - wide, drop + wide), examples, 3 / examples)


def trial(name: str, milliseconds: float, drop: float | None = 0.0, size: int = 10) -> Trial:
    """Geometric mean `milliseconds`: half of it at one length, twice of it at the other."""
    p50 = {"1x16": milliseconds / 2, "1x64": milliseconds * 2}
    return Trial(plan(name), size, p50, None if drop is None else score(drop))


def best(trials: list[Trial], options: ExportOptions) -> str:
    return min(trials, key=lambda one: order(one, options)).plan.name


def test_speed_is_the_geometric_mean_over_lengths() -> None:
    steady = Trial(plan("steady"), 10, {"1x16": 4.0, "1x64": 4.0})  # arithmetic mean 4
    uneven = Trial(plan("uneven"), 10, {"1x16": 1.0, "1x64": 9.0})  # arithmetic mean 5
    assert uneven.milliseconds == pytest.approx(3.0)
    assert best([steady, uneven], ExportOptions(0.01)) == "uneven"


def test_what_is_preferred_stands_first() -> None:
    """The most accurate is the closest to PyTorch: a drop below zero is luck."""
    trials = [
        replace(trial("fast", 1.0, 0.003, 30), agreement=0.97),
        replace(trial("small", 3.0, -0.002, 10), agreement=0.98),
        replace(trial("close", 2.0, 0.001, 20), agreement=0.99),
    ]
    assert best(trials, ExportOptions(0.01)) == "fast"
    assert best(trials, ExportOptions(0.01, prefer="size")) == "small"
    assert best(trials, ExportOptions(0.01, prefer="accuracy")) == "close"
    told = candidates(trials, trials[2], [], ExportOptions(0.01, prefer="accuracy"))
    assert [one.why for one in told] == [
        "less close to PyTorch than close: agreement 0.9700 against 0.9900",
        "less close to PyTorch than close: agreement 0.9800 against 0.9900",
        "chosen: the closest to PyTorch that loses at most 0.01",
    ]


def test_of_two_alike_the_smaller_stands_first() -> None:
    assert best([trial("large", 3.0, size=20), trial("tiny", 3.0, size=10)], ExportOptions(0.01)) == "tiny"


def test_a_drop_must_be_shown_not_only_seen() -> None:
    assert doubt(score(0.0), 0.01) is None
    assert doubt(score(-0.02), 0.0) is None
    assert doubt(score(0.014), 0.01) == "loses 0.0140, more than 0.01"
    twice_too_wide = Score(0.845, 0.005, (-0.005, 0.015), 2000, 0.0)  # which takes four times as many
    expected = "loses 0.0050, but with 2,000 examples it may be 0.0150: about 8,000 would suffice"
    assert doubt(twice_too_wide, 0.01) == expected
    of_both = Score(0.845, 0.005, (-0.005, 0.015), 2000, 0.004)  # 0.006 / sqrt(f) + 0.004 / f is 0.005 for f = 45 / 16
    # or nearly so: what is not seen falls by its logarithm
    assert "about 5,624 would suffice" in str(doubt(of_both, 0.01))
    assert (
        doubt(score(0.01), 0.01)
        == "loses 0.0100, but with 2,000 examples it may be 0.0140: no number of them would suffice"
    )


def test_few_answers_that_all_stay_the_same_show_little() -> None:
    same = Score(0.85, 0.0, (0.0, 0.03), 100, 0.03)
    assert doubt(same, 0.01) == "loses 0.0000, but with 100 examples it may be 0.0300: about 304 would suffice"


@pytest.mark.parametrize("examples", [6, 20, 100])
def test_however_few_there_are_as_many_are_asked_for(examples: int) -> None:
    """If n answers are all the same, a loss of 1 - 0.025^(1/n) is as likely as 2.5 %: 0.01 takes 368."""
    same = Score(0.85, 0.0, (0.0, 1 - 0.025 ** (1 / examples)), examples, 1 - 0.025 ** (1 / examples))
    assert "about 368 would suffice" in str(doubt(same, 0.01))


def test_the_bound_itself_is_within() -> None:
    drop = 0.85 - 0.84
    assert drop > 0.01  # in binary
    assert doubt(Score(0.84, drop, (drop, drop), 2000, 0.0015), 0.01) is None


def test_fp32_needs_leave_but_no_examples() -> None:
    fp32 = Trial(plan("fp32"), 10, {"1x16": 1.0}, Score(0.85, 0.0, (0.0, 0.0), 10, 0.3))
    assert "only" in str(fault(fp32, ExportOptions(0.01)))
    assert fault(fp32, ExportOptions(0.01, allow_fp32=True)) is None
    on_openvino = Trial(
        Plan("fp32-openvino", "fp32", "openvino"), 10, {"1x16": 1.0}, Score(0.65, 0.2, (0.1, 0.3), 300, 0.01)
    )
    assert (
        fault(on_openvino, ExportOptions(0.01, allow_fp32=True)) == "loses 0.2000, more than 0.01"
    )  # by bf16, it may be


def test_numbers_that_are_shifted_or_scaled_do_not_pass() -> None:
    right = Trial(plan("int8-signed"), 10, {"1x16": 1.0}, Score(0.9, 0.0, (0.0, 0.001), 2000, 0.0), distortion=0.02)
    assert fault(right, ExportOptions(0.01)) is None
    shifted = "shifts or scales PyTorch's numbers by 0.0201 of their variance, more than 0.02"
    assert fault(replace(right, distortion=0.0201), ExportOptions(0.01)) == shifted
    assert fault(replace(right, distortion=200.0), ExportOptions(1.0)) is None


def test_what_weighs_too_much_is_out() -> None:
    assert (
        fault(trial("a", 1.0, size=23_000_000), ExportOptions(0.01, max_size=22.5))
        == "23.0 MB, more than --max-size 22.5"
    )
    assert fault(trial("a", 1.0, size=22_000_000), ExportOptions(0.01, max_size=22.5)) is None


def test_every_candidate_is_told_why_in_the_order_given() -> None:
    trials = [
        trial("fp32", 9.0, None),
        trial("int8-signed", 3.0),
        trial("int8-unsigned", 3.9, None),
        trial("int8-signed-fused", 2.0, 0.014),
        trial("int8-twin", 3.0, None, size=11),
        trial("int8-other", 5.0),
    ]
    told = candidates(trials, trials[1], [trials[5]], ExportOptions(0.01))
    assert {one.name: one.why for one in told} == {
        "fp32": "fp32 baseline: chosen only with --allow-fp32, if no other candidate passes",
        "int8-signed": "chosen: the fastest that loses at most 0.01",
        "int8-unsigned": "slower than int8-signed: 3.90 ms against 3.00",
        "int8-signed-fused": "loses 0.0140, more than 0.01",
        "int8-twin": "as fast as int8-signed, but larger: 11 bytes against 10",
        "int8-other": "also included, for machines that cannot use int8-signed",
    }
    assert [one.name for one in told] == [one.plan.name for one in trials]
    assert (told[0].value, told[0].drop, told[0].drop_interval) == (None, None, None)
    assert [one.name for one in told if one.chosen] == ["int8-signed"]


def test_the_table_tells_what_was_tried_and_what_is_wrong() -> None:
    lines = table([trial("fp32", 9.0, None), trial("int8-signed", 3.0, 0.02)], ExportOptions(0.01)).splitlines()
    assert lines[0] == (
        "  int8-signed  value 0.8300  drop +0.0200 [+0.0160, +0.0240]  3.00 ms  0.0 MB  loses 0.0200, more than 0.01"
    )
    assert "not scored" in lines[1]
