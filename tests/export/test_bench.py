"""`bertline bench` against other models than the bundle's own: labels are matched by name, not by index."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from bertline.artifacts import bundle as manifests
from bertline.artifacts.errors import DamagedError, InputError
from bertline.artifacts.files import sha256
from bertline.artifacts.run import RunFolder
from bertline.export import sources
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


def test_a_bundle_is_measured_beside_another(
    run: Path, bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    old = shutil.copytree(bundle[0], tmp_path / "old")
    data = RunFolder(run).split("validation")
    found = bench.bench(bundle[0], [str(old)], data, None, lambda line: None)
    assert [(one["name"], one["agreement"]) for one in found["systems"]] == [(f"bundle {old}", 1.0), ("bundle", 1.0)]
    manifest = json.loads((old / manifests.MANIFEST).read_text())
    (old / manifests.MANIFEST).write_text(json.dumps(manifest | {"labels": ["bad", "good"]}))
    with pytest.raises(InputError, match="they cannot be compared"):
        bench.bench(bundle[0], [str(old)], data, None, print)


def test_a_bundle_that_is_another_after_it_was_measured_is_refused(
    run: Path, bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that is measured has loaded it by itself, later than it was verified."""
    signed = shutil.copytree(bundle[0], tmp_path / "signed")
    manifest = signed / manifests.MANIFEST

    def exchanged(*_: object) -> dict[str, Any]:
        manifest.write_text(manifest.read_text() + "\n")
        return {}

    monkeypatch.setattr("bertline.bench.compare.bench", exchanged)
    with pytest.raises(DamagedError, match="it changed after its signature was verified"):
        bench.bench(signed, [str(run)], RunFolder(run).split("validation"), None, print, signed=sha256(manifest))


def test_a_bundle_is_read_and_hashed_once_and_the_measured_one_again_afterwards(
    run: Path, bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(bundle[0], tmp_path / "other")
    read: list[Path] = []

    def counted(folder: Path) -> manifests.Loaded:
        read.append(folder)
        return load(folder)

    load = manifests.load
    monkeypatch.setattr(manifests, "load", counted)
    monkeypatch.setattr("bertline.bench.compare.bench", lambda *_: {})
    bench.bench(bundle[0], [str(other)], RunFolder(run).split("validation"), None, print)
    assert read == [bundle[0], other, bundle[0]]


def test_what_a_bundle_was_made_from_is_found_from_a_link_to_it(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bundles/tiny").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "bundles/tiny")
    source = sources.read(str(run), None).source(tmp_path / "bundles/tiny")
    assert sources.opened(source.place, tmp_path / "link") == str(run.resolve())


def test_a_bundle_without_what_it_was_made_from_says_what_to_name(bundle: Exported, tmp_path: Path) -> None:
    moved = shutil.copytree(bundle[0], tmp_path / "far/away/moved")
    place = manifests.read(moved).source.place
    told = f"{place}, which {moved} was compared with, cannot be opened; name another model: --against ({place}: no"
    with pytest.raises(InputError, match=re.escape(told)):
        bench.bench(moved, (), None, None, print)


@pytest.mark.parametrize("other", [{"problem_type": "multi_label_classification"}, {"inputs": ["text", "text_pair"]}])
def test_one_that_answers_something_else_is_refused(
    run: Path, bundle: Exported, tmp_path: Path, other: dict[str, object]
) -> None:
    shutil.copytree(run, tmp_path / "other")
    summary = RunFolder(tmp_path / "other").summary
    summary.write_text(json.dumps(json.loads(summary.read_bytes()) | other))
    with pytest.raises(InputError, match="they cannot be compared"):
        bench.bench(bundle[0], [str(tmp_path / "other")], RunFolder(run).split("validation"), None, print)


def test_without_a_test_split_examples_are_to_be_named(bundle: Exported) -> None:
    with pytest.raises(
        InputError, match=r"test\.jsonl: .* was made from something that has no test split; name labelled"
    ):
        bench.bench(bundle[0], (), None, None, lambda line: None)


def test_columns_are_named_for_a_file_alone(bundle: Exported) -> None:
    with pytest.raises(InputError, match="--column names columns of labelled examples: add --data FILE"):
        bench.bench(bundle[0], (), None, None, lambda line: None, {"text": "body"})


def test_one_with_other_labels_is_refused_before_anything_is_converted(
    run: Path, bundle: Exported, tmp_path: Path
) -> None:
    other = relabelled(run, tmp_path / "other", ("bad", "fair", "good"), (0, 1, 1))
    said: list[str] = []
    with pytest.raises(InputError) as refused:
        bench.bench(bundle[0], [str(other)], RunFolder(run).split("validation"), None, said.append)
    assert f"{other}: single_label_classification of text, bad, fair, good" in str(refused.value)
    assert "they cannot be compared" in str(refused.value)
    assert not said


def test_a_bundle_that_answers_otherwise_here_is_not_measured(run: Path, bundle: Exported, tmp_path: Path) -> None:
    other = shutil.copytree(bundle[0], tmp_path / "other")
    manifest = json.loads((other / manifests.MANIFEST).read_text())
    manifest["golden"][0]["logits"][0] += 1
    (other / manifests.MANIFEST).write_text(json.dumps(manifest))
    for folder, against in ((other, run), (bundle[0], other)):
        with pytest.raises(DamagedError, match="golden text 0: logits differ by"):
            bench.bench(folder, [str(against)], RunFolder(run).split("validation"), None, lambda line: None)
