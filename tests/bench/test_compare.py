import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bertline.bench import compare
from bertline.bench.compare import Measured, Point
from bertline.bench.systems import System
from bertline.tasks import catalog
from bertline.tasks.task import Example
from tests.bench.conftest import GRID, LABELS, Bench
from tests.conftest import classifier


def test_logits_are_those_of_a_plain_forward_pass_in_the_order_of_the_texts(bench: Bench) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = bench.systems[0].model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = [
            model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits[0].numpy()
            for text, _ in bench.texts
        ]
    for measured in bench.measured:
        np.testing.assert_allclose(measured.outputs, expected, atol=1e-5)


@pytest.mark.parametrize("names", [("model.onnx", "model.onnx_data"), ("model.xml", "model.bin")])
def test_a_models_size_is_that_of_all_its_files(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in (*names, "another.onnx"):
        (tmp_path / name).write_bytes(bytes(7))
    assert System("a", "openvino", tmp_path / names[0], tmp_path, classifier()).size_bytes == 14


def test_every_system_is_timed_at_every_point(bench: Bench) -> None:
    for system, measured in zip(bench.systems, bench.measured, strict=True):
        assert measured.name == system.name
        assert [(point.batch, point.length) for point in measured.grid] == list(GRID)
        for point in measured.grid:
            assert 0 < point.p50_ms <= point.p90_ms <= point.p99_ms
        assert measured.load_seconds > 0


def test_sizes_are_those_of_the_weights_on_disk(bench: Bench) -> None:
    pytorch, onnx = bench.systems
    assert bench.measured[0].size_bytes == (pytorch.model / "model.safetensors").stat().st_size
    assert bench.measured[1].size_bytes == onnx.model.stat().st_size


def test_systems_take_turns(bench: Bench) -> None:
    assert bench.told == [
        "[1/10] pytorch: loaded",
        "[2/10] onnxruntime-fp32: loaded",
        "[3/10] round 1 of 2: 1 x 16 tokens timed",
        "[4/10] round 1 of 2: 1 x 64 tokens timed",
        "[5/10] round 1 of 2: 3 x 16 tokens timed",
        "[6/10] round 2 of 2: 1 x 16 tokens timed",
        "[7/10] round 2 of 2: 1 x 64 tokens timed",
        "[8/10] round 2 of 2: 3 x 16 tokens timed",
        "[9/10] pytorch: 50 texts scored",
        "[10/10] onnxruntime-fp32: 50 texts scored",
    ]


@pytest.mark.parametrize(
    ("longest", "grid"), [(10, [(1, 10)]), (64, [(1, 16), (1, 64)]), (200, [(1, 16), (1, 64), (1, 128), (32, 128)])]
)
def test_the_default_grid_ends_where_texts_are_cut(
    systems: list[System], longest: int, grid: list[tuple[int, int]]
) -> None:
    both = [
        replace(system, settings=classifier(length)) for system, length in zip(systems, (512, longest), strict=True)
    ]
    assert compare.default_grid(both) == grid


def test_another_length_is_computed_in_between() -> None:
    grid = [(1, 64), (1, 16), (32, 16)]
    assert [compare._other_point(grid, place) for place in range(3)] == [1, 0, 1]


def test_all_rounds_count_and_another_point_is_computed_before_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, object]] = []

    def time(batch: object, between: object) -> list[list[float]]:
        asked.append((batch, between))
        return [[1.0, 3.0]]

    worker: Any = SimpleNamespace(
        ways=1, system=SimpleNamespace(name="a", tokenizer=None, share=None), prepare=lambda: None,
        load=lambda batch: 0.0, time=time,
    )  # fmt: skip
    grid = [(1, 16), (1, 64)]
    monkeypatch.setattr("bertline.bench.inputs.make", lambda tokenizer, texts, grid: list(grid))
    (points,) = compare.time([worker], [], grid, 3)
    assert asked == [(grid[0], grid[1]), (grid[1], grid[0])] * 3
    assert [one.repetitions for one in points] == [6, 6]


def test_percentiles_by_hand() -> None:
    point = compare.point(2, 16, [ms / 1000 for ms in (3, 1, 2, 5, 4, 11, 7, 6, 8, 9, 10)])
    assert asdict(point) == pytest.approx(
        {
            "batch": 2,
            "length": 16,
            "p50_ms": 6.0,
            "p90_ms": 10.0,
            "p99_ms": 10.9,
            "texts_per_second": 2 / 0.006,
            "repetitions": 11,
        }
    )


def measured(name: str, *p50_ms: tuple[int, int, float]) -> Measured:
    grid = [Point(batch, length, ms, ms, ms, batch * 1000 / ms, 100) for batch, length, ms in p50_ms]
    return Measured(name, [], grid, load_seconds=0.5, peak_rss_bytes=10, size_bytes=20)


def test_geometric_mean_by_hand() -> None:
    slow = measured("slow", (1, 16, 8.0), (1, 512, 80.0), (32, 128, 900.0))
    fast = measured("fast", (1, 16, 1.0), (1, 512, 40.0), (32, 128, 100.0))
    assert compare.geometric_mean_speedup(fast, slow) == pytest.approx(4.0)  # √(8 · 2)
    assert compare.geometric_mean_speedup(slow, fast) == pytest.approx(0.25)


def test_the_json_of_a_bench(bench: Bench) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    pytorch, onnx = bench.measured
    answered = [
        compare.answers(system, bench.examples, each.outputs)
        for system, each in zip(bench.systems, bench.measured, strict=True)
    ]
    task = catalog.make(classifier())
    result = compare.summarize(task, bench.measured, bench.examples, answered, rounds=2, threads=1)
    assert json.loads(json.dumps(result)) == result
    assert list(result) == [
        "machine", "task", "metrics", "systems", "speedup", "threads", "texts", "rounds", "measured", "versions"
    ]  # fmt: skip
    assert (result["task"], result["metrics"]) == ("text-classification", ["accuracy", "macro_f1"])
    gold = [LABELS.index(example.gold) for example in bench.examples]
    assert result["speedup"] == {"onnxruntime-fp32 over pytorch": compare.geometric_mean_speedup(onnx, pytorch)}
    assert (result["texts"], result["rounds"], result["threads"]) == (50, 2, 1)
    for row, each in zip(result["systems"], bench.measured, strict=True):
        predicted = np.stack(each.outputs).argmax(axis=1)
        low, high = row.pop("interval")
        assert low <= row["accuracy"] <= high
        assert row == {
            "name": each.name,
            "grid": [asdict(point) for point in each.grid],
            "accuracy": pytest.approx(accuracy_score(gold, predicted)),
            "macro_f1": pytest.approx(f1_score(gold, predicted, average="macro")),
            "agreement": 1.0,
            "size_bytes": each.size_bytes,
            "peak_rss_bytes": each.peak_rss_bytes,
            "load_seconds": each.load_seconds,
            "asked_share": None,
        }


def test_a_score_that_is_asked_for_comes_first(bench: Bench) -> None:
    answered = [
        compare.answers(system, bench.examples, each.outputs)
        for system, each in zip(bench.systems, bench.measured, strict=True)
    ]
    given = (catalog.make(classifier()), bench.measured, bench.examples, answered, 2, 1)
    found = compare.summarize(*given, metric="matthews_correlation")
    assert found["metrics"] == ["matthews_correlation", "accuracy", "macro_f1"]
    for row in found["systems"]:
        assert row["interval"][0] <= row["matthews_correlation"] <= row["interval"][1]
    assert compare.summarize(*given, metric="macro_f1")["metrics"] == ["macro_f1", "accuracy"]


def test_agreement_is_the_share_of_labels_like_the_first_systems() -> None:
    both = [measured(name, (1, 16, 1.0)) for name in "ab"]
    answered = [[{"label": LABELS[one]} for one in told] for told in ((1, 0, 1, 1), (1, 1, 0, 1))]
    examples = [Example("", None, LABELS[0])] * 4
    result = compare.summarize(catalog.make(classifier()), both, examples, answered, rounds=1, threads=1)
    assert [row["agreement"] for row in result["systems"]] == [1.0, 0.5]
    assert [row["accuracy"] for row in result["systems"]] == [0.25, 0.25]
