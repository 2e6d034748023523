"""Local paths, pkg:// places and hub ids."""

from pathlib import Path

import pytest

from bertline.artifacts import places
from bertline.artifacts.errors import InputError


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "corpus" / "a.csv").write_text("text\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert places.data_files("pkg://corpus/a.csv") == [tmp_path / "corpus" / "a.csv"]


def test_globs_and_lists_name_files_in_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c[1].csv"):
        (tmp_path / name).touch()
    assert places.data_files(f"{tmp_path}/?.csv") == [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert places.data_files([f"{tmp_path}/c[1].csv", f"{tmp_path}/a.csv"]) == [
        tmp_path / "c[1].csv",
        tmp_path / "a.csv",
    ]


def test_all_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        places.data_files([f"{tmp_path}/a.csv", f"{tmp_path}/*.csv", "pkg://nowhere/a.csv"])
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    "place", ["bert-base-uncased", "google-bert/bert-base-uncased", "org/name@v1.0", "org/name@refs/pr/1"]
)
def test_hub_ids(place: str) -> None:
    assert places.is_hub_id(place)


@pytest.mark.parametrize(
    "place", ["./model", "/models/bert", "data.csv", "org/data.jsonl", "pkg://a/b", "a/b/c", "data/*.csv"]
)
def test_what_is_no_hub_id(place: str) -> None:
    assert not places.is_hub_id(place)


def test_a_local_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/name").mkdir(parents=True)
    assert places.model_folder("org/name") == Path("org/name")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="not a local folder, and the hub did not give it"):
        places.model_folder("no-such-organization/no-such-model")
