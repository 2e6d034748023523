"""What DeepSpeed's monitors and MLflow are given of a run: what metrics.jsonl holds, by steps, and nothing else."""

import csv
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.train import monitors
from tests.train.conftest import train_here

pytestmark = pytest.mark.usefixtures("rank")
SETS = ["training.logging_steps=5", "training.save_steps=6"]
Series = dict[str, list[tuple[int, float]]]


def single(scores: dict[str, Any]) -> list[tuple[str, float]]:
    """Scores of a split, without those of each label."""
    return [(name, value) for name, value in scores.items() if name != "per_label"]


def expected(run: RunFolder) -> Series:
    """The series of metrics.jsonl, and of the end."""
    found: Series = {}
    for line in map(json.loads, run.metrics.read_text().splitlines()):
        scores = {f"validation/{name}": value for name, value in single(line.get("validation", {}))}
        train = {f"train/{name}": line[name] for name in ("loss", "learning_rate", "tokens_per_second") if name in line}
        for name, value in {**scores, **train}.items():
            found.setdefault(name, []).append((line["step"], value))
    summary = read_summary(run.path)
    return found | {f"test/{name}": [(summary.steps, value)] for name, value in single(summary.test)}


def from_csv(folder: Path) -> Series:
    """The series in CSV files: train_loss.csv holds train/loss."""
    found: Series = {}
    for path in folder.glob("*.csv"):
        split, _, name = path.stem.partition("_")
        (_, heading), *rows = csv.reader(path.read_text().splitlines())
        assert heading == name
        found[f"{split}/{name}"] = [(int(step), float(value)) for step, value in rows]
    return found


def test_csv_holds_what_the_run_logs_through_a_resume(recipe: Path, tmp_path: Path) -> None:
    sets = [*SETS, "deepspeed.csv_monitor={enabled: true}"]
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "run", sets, stop=7)
    run = train_here(recipe, tmp_path / "run", sets, resume=True)
    series = from_csv(run.path / "csv_monitor")
    assert series == expected(run)
    assert [step for step, _ in series["train/loss"]] == [5, 10, 12]
    assert [step for step, _ in series["validation/accuracy"]] == [6, 12]


def test_tensorboard_where_the_recipe_says(recipe: Path, tmp_path: Path) -> None:
    sets = [*SETS, f"deepspeed.tensorboard={{enabled: true, output_path: {tmp_path}/all}}"]
    run = train_here(recipe, tmp_path / "run", sets)
    events = EventAccumulator(str(tmp_path / "all" / "tiny")).Reload()
    series = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    wanted = expected(run)
    assert series.keys() == wanted.keys()
    for name, pairs in wanted.items():
        assert series[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in pairs]


@pytest.mark.parametrize(
    ("set_", "fault"),
    [
        ("deepspeed.wandb={enabled: true}", "deepspeed.wandb: needs wandb, which is not installed: pip install wandb"),
        ("deepspeed.comet={enabled: true}", "deepspeed.comet: needs comet_ml, which is not installed"),
        ("deepspeed.csv_monitor={enabled: true, job: mine}", "deepspeed.csv_monitor.job: "),
        ("deepspeed.tensorboard={enabled: perhaps}", "deepspeed.tensorboard.enabled: "),
    ],
)
def test_what_cannot_be_written_to_is_refused_first(recipe: Path, tmp_path: Path, set_: str, fault: str) -> None:
    with pytest.raises(InputError, match=re.escape(fault)):
        train_here(recipe, tmp_path / "run", [set_])
    assert not (tmp_path / "run").exists()


def test_a_run_whose_monitor_does_not_start_goes_on_with_another(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sets = [f"deepspeed.csv_monitor={{enabled: true, output_path: {tmp_path}/file}}"]
    with pytest.raises(InputError, match=r"deepspeed\.csv_monitor: does not start: .*Not a directory"):
        train_here(recipe, tmp_path / "run", sets)
    others = [f"deepspeed.csv_monitor={{enabled: true, output_path: {tmp_path}/figures}}"]
    run = train_here(recipe, tmp_path / "run", others, resume=True)
    assert read_summary(run.path).steps == 12


def test_defaults_of_bertline_and_values_of_the_recipe(recipe: Path) -> None:
    given: dict[str, dict[str, Any]] = {
        "comet": {"enabled": False, "online": False},
        "wandb": {"enabled": False, "project": "p"},
        "csv_monitor": {"enabled": True, "output_path": "o", "job_name": "j"},
        "tensorboard": {"enabled": True},
    }
    placed = monitors.placed(recipes.load(recipe, [f"deepspeed={json.dumps(given)}"]), RunFolder(Path("runs/a")))
    added: dict[str, dict[str, Any]] = {
        "comet": {"experiment_name": "tiny", "samples_log_interval": 1},
        "tensorboard": {"output_path": "runs/a", "job_name": "tensorboard"},
    }
    assert placed == {name: section | added.get(name, {}) for name, section in given.items()}


def test_wandb_is_told_the_name_and_the_recipe(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    fake = ModuleType("wandb")
    begin = lambda **given: told.update(given, name=os.environ["WANDB_NAME"])  # noqa: E731
    config = SimpleNamespace(update=lambda values, allow_val_change: told.update(config=values))
    fake.__dict__.update(init=begin, config=config)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    # without the name that another run in this process may have set
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if key != "WANDB_NAME"})
    asked = ["deepspeed.wandb={enabled: true, project: reviews}", "mlflow.tracking_uri='http://me:secret@tracking'"]
    monitors.start(recipes.load(recipe, asked), RunFolder(tmp_path))
    assert (told["project"], told["name"]) == ("reviews", "tiny")
    assert told["config"]["training"]["learning_rate"] == 1e-3
    assert "secret" not in str(told)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's own store of files, which asks to be allowed."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path}/mlruns"


def test_mlflow_tracks_one_run_through_a_resume(recipe: Path, tmp_path: Path, store: str) -> None:
    sets = [*SETS, f"mlflow.tracking_uri={store}", "mlflow.experiment=reviews"]
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "run", sets, stop=7)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("reviews")
    assert experiment is not None
    (before,) = client.search_runs([experiment.experiment_id])
    assert (before.info.run_name, before.info.status) == ("tiny", "FAILED")
    run = train_here(recipe, tmp_path / "run", sets, resume=True)
    (after,) = client.search_runs([experiment.experiment_id])
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.params["training.learning_rate"] == "0.001"
    assert after.data.params["data.take.train"] == "90"
    wanted = expected(run)
    assert after.data.metrics.keys() == wanted.keys()
    for name, pairs in wanted.items():
        history = client.get_metric_history(after.info.run_id, name)
        assert [(metric.step, metric.value) for metric in history] == pairs


def test_a_run_that_goes_on_in_another_experiment_is_tracked_there(recipe: Path, tmp_path: Path, store: str) -> None:
    for experiment in ("first", "first", "second"):
        loaded = recipes.load(recipe, [f"mlflow.tracking_uri={store}", f"mlflow.experiment={experiment}"])
        with monitors.opened(loaded, RunFolder(tmp_path), lambda line: pytest.fail(line)) as opened:
            opened.write(1, {"loss": 0.5})
    client = MlflowClient(store)
    ids = [one.experiment_id for name in ("first", "second") if (one := client.get_experiment_by_name(name))]
    assert [len(client.search_runs([one])) for one in ids] == [1, 1]


def test_a_preempted_run_is_to_go_on_later(recipe: Path, tmp_path: Path, store: str) -> None:
    loaded = recipes.load(recipe, [f"mlflow.tracking_uri={store}"])
    with (
        suppress(PreemptedError),
        monitors.opened(loaded, RunFolder(tmp_path), lambda line: pytest.fail(line)) as opened,
    ):
        opened.write(1, {"loss": 0.5})
        raise PreemptedError
    client = MlflowClient(store)
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert (run.info.status, run.data.metrics) == ("SCHEDULED", {"train/loss": 0.5})


def test_labels_that_mlflow_has_no_name_for_are_parameters_too(recipe: Path, tmp_path: Path, store: str) -> None:
    weights = {"R&D": 2.0, "pay, or+leave": 3.0, "it's//": 4.0, "long" * 99: 5.0}
    loaded = recipes.load(recipe, [f"mlflow.tracking_uri={store}", f"training.class_weights={json.dumps(weights)}"])
    with monitors.opened(loaded, RunFolder(tmp_path), lambda line: pytest.fail(line)):
        pass
    client = MlflowClient(store)
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.info.status == "FINISHED"
    found = {name: value for name, value in run.data.params.items() if "class_weights" in name}
    assert sorted(found.values()) == ["2.0", "3.0", "4.0", "5.0"]
    assert found["training.class_weights.R_D"] == "2.0"


class Refusing(BaseHTTPRequestHandler):
    """A server that has lost its store."""

    def do_GET(self) -> None:
        self.send_error(500)

    def do_POST(self) -> None:
        self.send_error(500)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["refuses", "is gone"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        if request.param == "is gone":
            server.shutdown()
            server.server_close()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_run_goes_on_without_mlflow(
    recipe: Path, tmp_path: Path, server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    loaded = recipes.load(recipe, [f"mlflow.tracking_uri={server}"])
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    with monitors.opened(loaded, run, said.append) as opened:
        for step in (1, 2, 3):
            opened.write(step, {"loss": 0.5})
    (line,) = said
    assert line.startswith("mlflow: ")
    assert line.endswith("; the run goes on without it")
    assert len(line) < 400
    assert capfd.readouterr() == ("", "")
