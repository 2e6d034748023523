"""The choice, on hand-made figures."""

import pytest

from bertline.artifacts.errors import GateError
from bertline.export.choose import Trial, choose


def trial(name: str, milliseconds: float, drop: float = 0.0, size: int = 10, quantized: bool = True) -> Trial:
    """Geometric mean `milliseconds`: half of it at one length, twice of it at the other."""
    p50 = {"1x16": milliseconds / 2, "1x64": milliseconds * 2}
    return Trial(name, quantized, 0.85 - drop, drop, (drop - 0.01, drop + 0.01), size, p50)


def chosen(trials: list[Trial], max_drop: float = 0.01) -> str:
    (name,) = [one.name for one in choose(trials, max_drop) if one.chosen]
    return name


def test_the_fastest_within_the_drop_is_chosen() -> None:
    trials = [trial("a", 4.0), trial("b", 3.0), trial("c", 2.0, drop=0.02)]
    assert chosen(trials) == "b"
    assert chosen(trials, max_drop=0.02) == "c"


def test_speed_is_the_geometric_mean_over_lengths() -> None:
    steady = Trial("steady", True, 0.8, 0.0, (0, 0), 10, {"1x16": 4.0, "1x64": 4.0})  # arithmetic mean 4
    uneven = Trial("uneven", True, 0.8, 0.0, (0, 0), 10, {"1x16": 1.0, "1x64": 9.0})  # arithmetic mean 5
    assert uneven.milliseconds == pytest.approx(3.0)
    assert chosen([steady, uneven]) == "uneven"


def test_of_two_alike_the_smaller_is_chosen() -> None:
    assert chosen([trial("large", 3.0, size=20), trial("small", 3.0, size=10)]) == "small"


def test_fp32_is_never_chosen() -> None:
    assert chosen([trial("fp32", 1.0, quantized=False), trial("int8", 2.0)]) == "int8"


def test_a_gain_counts_as_no_drop() -> None:
    assert chosen([trial("better", 3.0, drop=-0.02)], max_drop=0.0) == "better"


def test_the_bound_itself_is_within() -> None:
    drop = 0.85 - 0.84
    assert drop > 0.01  # in binary
    assert chosen([trial("a", 3.0, drop=drop)]) == "a"


def test_every_candidate_is_told_why_in_the_order_given() -> None:
    told = choose(
        [
            trial("fp32", 9.0, quantized=False),
            trial("int8-signed", 3.0),
            trial("int8-unsigned", 3.9),
            trial("int8-signed-fused", 2.0, drop=0.014),
            trial("int8-twin", 3.0, size=11),
        ],
        0.01,
    )
    assert {one.name: one.why for one in told} == {
        "fp32": "fp32: measured for comparison, never chosen",
        "int8-signed": "chosen: the fastest that loses at most 0.01",
        "int8-unsigned": "slower than int8-signed: 3.90 ms against 3.00",
        "int8-signed-fused": "loses 0.0140, more than 0.01",
        "int8-twin": "as fast as int8-signed, but larger: 11 bytes against 10",
    }
    assert told[0].name == "fp32"


def test_none_within_the_drop_is_an_error_with_a_table() -> None:
    trials = [trial("fp32", 9.0, quantized=False), trial("int8-signed", 3.0, drop=0.02)]
    with pytest.raises(GateError) as caught:
        choose(trials, 0.01)
    message = str(caught.value)
    assert "at most 0.01" in message
    assert "int8-signed  value 0.8300  drop +0.0200 [+0.0100, +0.0300]  3.00 ms" in message
