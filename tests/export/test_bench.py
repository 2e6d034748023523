"""`bertline bench` beside other models than the bundle's own: labels are what they are called, not where they stand."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder
from bertline.launch import bench
from tests.export.conftest import measure_briefly

Exported = tuple[Path, dict[str, Any], list[str]]


def relabelled(run: Path, folder: Path, labels: Sequence[str], order: Sequence[int]) -> Path:
    """The run's model with its outputs in another order, and what they are called then."""
    shutil.copytree(RunFolder(run).best, folder)
    weights = load_file(folder / "model.safetensors")
    weights.update({f"classifier.{part}": weights[f"classifier.{part}"][list(order)] for part in ("weight", "bias")})
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    names = dict(enumerate(labels))
    config |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_same_model_with_labels_in_another_order_answers_alike(
    run: Path, bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    turned = relabelled(run, tmp_path / "turned", ("positive", "negative"), (1, 0))
    data = RunFolder(run).split("validation")
    found = bench.bench(bundle[0], [str(run), str(turned)], data, None, lambda line: None)
    own, other = found["systems"][:2]
    assert other["agreement"] == 1.0
    assert other["accuracy"] == own["accuracy"] > 0.5


@pytest.mark.parametrize("other", [{"problem_type": "multi_label_classification"}, {"inputs": ["text", "text_pair"]}])
def test_one_that_answers_something_else_is_refused(
    run: Path, bundle: Exported, tmp_path: Path, other: dict[str, object]
) -> None:
    shutil.copytree(run, tmp_path / "other")
    summary = RunFolder(tmp_path / "other").summary
    summary.write_text(json.dumps(json.loads(summary.read_bytes()) | other))
    with pytest.raises(InputError, match="they cannot be held against each other"):
        bench.bench(bundle[0], [str(tmp_path / "other")], RunFolder(run).split("validation"), None, print)


def test_one_with_other_labels_is_refused_before_anything_is_converted(
    run: Path, bundle: Exported, tmp_path: Path
) -> None:
    other = relabelled(run, tmp_path / "other", ("bad", "fair", "good"), (0, 1, 1))
    said: list[str] = []
    with pytest.raises(InputError) as refused:
        bench.bench(bundle[0], [str(other)], RunFolder(run).split("validation"), None, said.append)
    assert f"{other}: single_label_classification of text, bad, fair, good" in str(refused.value)
    assert "they cannot be held against each other" in str(refused.value)
    assert not said
