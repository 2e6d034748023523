"""metrics.jsonl: read after a crash, truncated to a checkpoint, searched for the best evaluation."""

import os
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts.run import Best
from bertline.artifacts.task import Decision
from bertline.train import metrics

LINES: list[dict[str, Any]] = [
    {"step": 5, "loss": 0.7},
    {"step": 6, "validation": {"accuracy": 0.8, "loss": 0.5}, "decision": {"thresholds": [0.3]}},
    {"step": 9, "validation": {"accuracy": 0.8, "loss": 0.4}, "decision": {"thresholds": [0.4]}},
    {"step": 12, "validation": {"accuracy": 0.7, "loss": 0.6}, "decision": {}},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for line in LINES:
        metrics.append(tmp_path / "metrics.jsonl", line)
    return tmp_path / "metrics.jsonl"


def test_an_evaluation_is_on_the_disk_before_anything_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else, after a power failure, best/ might be of a step that is recorded nowhere."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    sizes = []
    for line in LINES:
        metrics.append(tmp_path / "metrics.jsonl", line)
        sizes += [(tmp_path / "metrics.jsonl").stat().st_size] if "validation" in line else []
    assert synced == sizes


def test_half_a_line_is_left_out(path: Path) -> None:
    with path.open("a") as stream:
        stream.write('{"step": 13, "lo')
    assert metrics.read(path) == LINES


@pytest.mark.parametrize(("step", "evaluated", "kept"), [(6, 6, [0, 1]), (9, 6, [0, 1]), (6, 0, [0]), (8, 6, [0, 1])])
def test_what_came_after_a_checkpoint_is_forgotten(path: Path, step: int, evaluated: int, kept: list[int]) -> None:
    metrics.truncate(path, step, evaluated)
    assert metrics.read(path) == [LINES[number] for number in kept]


@pytest.mark.parametrize(("metric", "step", "value", "threshold"), [("accuracy", 6, 0.8, 0.3), ("loss", 9, 0.4, 0.4)])
def test_the_best_is_the_first_of_equals(path: Path, metric: str, step: int, value: float, threshold: float) -> None:
    best = Best(step=step, value=value, decision=Decision(thresholds=[threshold]))
    assert metrics.best(path, metric) == (best, next(
        line["validation"] for line in LINES if line["step"] == step
    ))  # fmt: skip


def test_there_is_no_best_at_first(tmp_path: Path) -> None:
    assert metrics.best(tmp_path / "metrics.jsonl", "accuracy") is None
