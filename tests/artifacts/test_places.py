"""Local paths, pkg:// places and hub ids."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bertline.artifacts import places
from bertline.artifacts.errors import InputError
from tests.export.sealing.hub import running


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


def test_a_glob_may_go_through_all_folders(tmp_path: Path) -> None:
    found = [tmp_path / name for name in ("a.csv", "x/b.csv", "x/y/c.csv")]
    for path in found:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert places.data_files(f"{tmp_path}/**/*.csv") == places.data_files(f"{tmp_path}/**/**/*.csv") == found


def test_all_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        places.data_files([f"{tmp_path}/a.csv", f"{tmp_path}/*.csv", "pkg://nowhere/a.csv"])
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("inside", "split", "pattern"),
    [
        (["test/data-00000-of-00001.arrow", "train/data-00000-of-00001.arrow"], "train", "train/data-*.arrow"),
        (["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"], "test", "test-*.parquet"),
        (["data/test-00000-of-00002.parquet", "data/train-00000-of-00002.parquet"], "train", "data/train-*.parquet"),
        (["test.csv", "train.csv"], "train", "train.csv"),
        (["dev.csv", "test.csv", "train.csv"], "validation", "dev.csv"),
        (["train/a.csv", "valid/a.csv", "valid/b.csv"], "validation", "valid/*.csv"),
    ],
)
def test_a_folder_is_told_from_a_missing_file(tmp_path: Path, inside: list[str], split: str, pattern: str) -> None:
    for name in inside:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"is a folder; name its files: {re.escape(f'{tmp_path}/{pattern}')}$"):
        places.data_files(str(tmp_path), split)


@pytest.mark.parametrize(
    ("inside", "listed"),
    [
        (["a.csv.gz", "README.md"], "a.csv.gz"),
        (["state.json", "cache-1f.arrow", "data-00000-of-00002.arrow"], "data-*.arrow, state.json"),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "values.csv"], "train-*.parquet, values.csv"),
        ([f"{number}.csv" for number in range(7)], "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more"),
    ],
)
def test_a_folder_without_files_of_the_split_is_listed(tmp_path: Path, inside: list[str], listed: str) -> None:
    for name in inside:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"is a folder; name files in it \(it has {re.escape(listed)}\)$"):
        places.data_files(str(tmp_path), "validation")


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, without a data file"):
        places.data_files(str(tmp_path))


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("bert-base-uncased", ("bert-base-uncased", None, None)),
        ("google-bert/bert-base-uncased", ("google-bert/bert-base-uncased", None, None)),
        ("org/name@v1.0", ("org/name", None, "v1.0")),
        ("org/name@refs/pr/1", ("org/name", None, "refs/pr/1")),
        ("glue:mrpc", ("glue", "mrpc", None)),
        ("unimelb-nlp/wikiann:zh-classical", ("unimelb-nlp/wikiann", "zh-classical", None)),
        (
            "wikimedia/wikipedia:20231101.en@refs/convert/parquet",
            ("wikimedia/wikipedia", "20231101.en", "refs/convert/parquet"),
        ),
        ("org/name:c++,(de)@main", ("org/name", "c++,(de)", "main")),
    ],
)
def test_hub_ids(place: str, parts: tuple[str, str | None, str | None]) -> None:
    assert places.is_hub_id(place)
    assert places.split_hub_id(place) == parts


@pytest.mark.parametrize(
    "place",
    [
        *("./model", "/models/bert", "pkg://a/b", "a/b/c", "data/*.csv", "model.onnx", "model.safetensors"),
        *("data.csv", "data.CSV", "org/data.jsonl", "data.arrow", "data.parquet", "squad.json", "recipe.yaml"),
        *("data.conll", "data.iob", "data.bio", "data.txt", "org/data.csv.gz", "data.TSV.BZ2", "data.jsonl.xz"),
        *("data.json.zst", "data.gz", "data.parquet.gz"),
        *(
            "org/name:",
            "org/name@",
            "org/name:@main",
            "org/name@main:config",
            "org/name:a:b",
            "org/name:a/b",
            ":config",
        ),
        *("org/name:two words", "https://huggingface.co/org/name", "s3://bucket/name"),
    ],
)
def test_what_is_no_hub_id(place: str) -> None:
    assert not places.is_hub_id(place)


def test_a_local_folder_is_all_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("name:config@v1", "name@v1"):
        Path(place).mkdir()
        assert not places.is_hub_id(place)
        assert places.split_hub_id(place) == (place, None, None)
    assert places.split_hub_id("/data/set@v1") == ("/data/set@v1", None, None)


@pytest.mark.parametrize(("place", "meant"), [("org/name:config", "org/name"), ("org/name:config@v1", "org/name@v1")])
def test_a_model_has_no_configuration(place: str, meant: str) -> None:
    with pytest.raises(
        InputError, match=rf"only data sets have a configuration \(:config\); for the model write {meant}$"
    ):
        places.model_folder(place)


def test_a_local_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/name").mkdir(parents=True)
    assert places.model_folder("org/name") == Path("org/name")


def test_a_folder_of_another_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    Path("runs/tickets").mkdir(parents=True)
    told = r"no such folder \(did you mean runs/tickets\?\); and it could not be downloaded from the hub"
    with pytest.raises(InputError, match=rf"^runs/tikets: {told}"):
        places.model_folder("runs/tikets")
    with pytest.raises(InputError, match=r"^runs/other: no such folder; and it could not be downloaded from the hub"):
        places.model_folder("runs/other")
    with pytest.raises(
        InputError, match=r"^./runs/tikets: no such model folder \(did you mean runs/tickets\?\); name a"
    ):
        places.model_folder("./runs/tikets")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="not a local folder, and it could not be downloaded from the hub"):
        places.model_folder("no-such-organization/no-such-model")


CONVERTS = (
    "found pytorch_model.bin, and weights load from safetensors alone; transformers converts them: "
    "BertForSequenceClassification.from_pretrained({called}).save_pretrained(FOLDER), and AutoTokenizer likewise; then "
    "name FOLDER. If a pull request on the hub has converted them, name org/old@refs/pr/N"
)


@pytest.mark.parametrize(
    ("place", "holds", "told"),
    [
        ("org/old", "pytorch_model.bin", CONVERTS.format(called="'org/old'")),
        ("org/old@main", "pytorch_model.bin", CONVERTS.format(called="'org/old', revision='main'")),
        (
            "org/old",
            "onnx/model.onnx",
            "found onnx/model.onnx, and ONNX is no source; name the PyTorch model that it was made from",
        ),
    ],
)
def test_a_hub_model_without_safetensors_is_told_with_the_ways_to_some(
    place: str, holds: str, told: str, tmp_path: Path
) -> None:
    config = json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    script = f"from bertline.artifacts import places; places.model_folder({place!r})"
    with running() as hub:
        hub.repos["org/old"] = {"config.json": config.encode(), holds: b"weights", "vocab.txt": b""}
        environment = os.environ | hub.environment(tmp_path)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1].endswith(f"InputError: {place}: {told}"), done.stderr
