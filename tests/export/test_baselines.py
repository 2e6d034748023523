"""What a bundle is compared with reads texts, names its outputs and decides as the bundle does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import bundle as manifests
from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import Decision, Tokens
from bertline.export import baselines
from tests.conftest import with_vocabulary_alone

Exported = tuple[Path, dict[str, Any], list[str]]


def changed(run: Path, folder: Path, **keys: object) -> str:
    """The run's model, of which config.json says something else."""
    shutil.copytree(RunFolder(run).best, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    return str(folder)


def test_one_with_fewer_positions_reads_as_much_as_it_can(run: Path, bundle: Exported, tmp_path: Path) -> None:
    shorter = changed(run, tmp_path / "shorter", max_position_embeddings=16)
    manifest = manifests.read(bundle[0])
    windows = manifest.model_copy(update={"tokens": Tokens(max_length=48, stride=12, long="windows")})
    settings = baselines.system(shorter, bundle[0], windows, tmp_path / "made").settings
    assert settings.tokens == Tokens(max_length=16, stride=4, long="windows")
    same = changed(run, tmp_path / "same")
    assert baselines.system(same, bundle[0], windows, tmp_path / "read").settings.tokens == windows.tokens


def test_one_without_a_tokenizer_json_gets_one(run: Path, bundle: Exported, tmp_path: Path) -> None:
    older = with_vocabulary_alone(RunFolder(run).best, tmp_path / "older")
    system = baselines.system(str(older), bundle[0], manifests.read(bundle[0]), tmp_path / "made")
    assert (system.model, system.tokenizer) == (older, tmp_path / "made")
    assert (system.tokenizer / "tokenizer.json").is_file()


def test_what_a_number_is_called_tells_no_two_models_apart(run: Path, bundle: Exported, tmp_path: Path) -> None:
    settings = {"problem_type": "regression", "labels": ["stars"], "decision": Decision()}
    manifest = manifests.read(bundle[0]).model_copy(update=settings)
    other = changed(run, tmp_path / "other", id2label={"0": "score"}, problem_type="regression")
    assert baselines.system(other, bundle[0], manifest, tmp_path / "made").settings.problem_type == "regression"


@pytest.mark.parametrize(
    ("names", "labels", "thresholds"),
    [
        (["positive", "negative"], ["positive", "negative"], [0.75, 0.25]),
        (["LABEL_0", "LABEL_1"], ["negative", "positive"], [0.25, 0.75]),
    ],
)
def test_each_label_keeps_its_threshold(
    run: Path, bundle: Exported, tmp_path: Path, names: list[str], labels: list[str], thresholds: list[float]
) -> None:
    several = {"problem_type": "multi_label_classification", "decision": Decision(thresholds=[0.25, 0.75])}
    manifest = manifests.read(bundle[0]).model_copy(update=several)
    other = changed(run, tmp_path / "other", id2label=dict(enumerate(names)))
    settings = baselines.system(other, bundle[0], manifest, tmp_path / "made").settings
    assert (settings.labels, settings.decision.thresholds) == (labels, thresholds)


def test_a_run_or_bundle_without_names_takes_those_of_the_bundle(run: Path, bundle: Exported, tmp_path: Path) -> None:
    nameless = {"labels": ["LABEL_0", "LABEL_1"]}
    for kind, whole, file in (("run", run, "run.json"), ("bundle", bundle[0], manifests.MANIFEST)):
        other = shutil.copytree(whole, tmp_path / kind)
        (other / file).write_text(json.dumps(json.loads((other / file).read_bytes()) | nameless))
        found = baselines.system(str(other), bundle[0], manifests.read(bundle[0]), tmp_path / "made")
        assert found.settings.labels == ["negative", "positive"]


def test_what_a_bundle_was_held_to_must_still_be_that_model(
    run: Path, bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifests.read(bundle[0])
    other = manifest.model_copy(update={"source": manifest.source.model_copy(update={"weights_sha256": "0" * 64})})
    with pytest.raises(InputError, match=r"its weights have changed since .* was made; name a model to compare with"):
        baselines.reference(bundle[0], other)
