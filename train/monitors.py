"""Experiment tracking: TensorBoard, W&B, Comet and CSV through DeepSpeed's monitors, and MLflow directly.

They receive what metrics.jsonl receives, at the same moments and by optimizer step. DeepSpeed's engine itself gets no
monitor: it would count samples instead of steps, miscounting short batches, and log the learning rate of the next
step. Only rank 0 writes.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any

from deepspeed.monitor.config import get_monitor_config
from deepspeed.monitor.monitor import MonitorMaster
from pydantic import ValidationError

from bertline.artifacts import dotted, files
from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError, PreemptedError, install_advice, one_line
from bertline.artifacts.recipe_schema import MONITORS, Recipe
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.train import ranks

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}
"""Packages that DeepSpeed's monitors need."""
MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # give up soon on a server that does not answer: metrics.jsonl has everything
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
"""Environment variables that are set unless they already exist."""


def check(recipe: Recipe) -> None:
    """Reject monitors that cannot work, before anything is computed.

    Raises:
        InputError: DeepSpeed's monitors do not accept a key or value, or a package is not installed.
    """
    faults = []
    try:
        config = get_monitor_config(sections(recipe.deepspeed))
    except ValidationError as error:
        faults = [f"deepspeed.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise InputError(*faults) from None
    for name, package in PACKAGES.items():
        if getattr(config, name).enabled and not find_spec(package):
            faults.append(f"deepspeed.{name}: needs {package}, which is not installed: pip install {package}")
    if recipe.mlflow.tracking_uri and not find_spec("mlflow"):
        faults.append(f"mlflow.tracking_uri: needs MLflow, which is not installed; {install_advice('mlflow')}")
    if faults:
        raise InputError(*faults)


def sections(deepspeed: dict[str, Any]) -> dict[str, Any]:
    """The sections of a recipe's `deepspeed` that configure monitors."""
    return {name: deepspeed[name] for name in MONITORS if name in deepspeed}


class Monitors:
    """All the monitors of a run."""

    def __init__(self, deepspeed: MonitorMaster | None = None, mlflow: "Mlflow | None" = None) -> None:
        self._deepspeed = deepspeed
        self._mlflow = mlflow

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write the values of a line of metrics.jsonl, or {"test": scores}."""
        found = figures(values)
        if self._deepspeed is not None:
            self._deepspeed.write_events([(name, value, step) for name, value in found.items()])
        if self._mlflow is not None:
            self._mlflow.write(step, found)


@contextmanager
def opened(recipe: Recipe, run: RunFolder, say: Say) -> Iterator[Monitors]:
    """Open the recipe's monitors while the block runs; only rank 0 has any.

    Args:
        recipe: a recipe that `check` has accepted.
        run: the run's folder, new or resumed.
        say: receives a message if MLflow fails.

    Raises:
        InputError: on every rank, when a monitor does not start, for example W&B without a login.
    """
    made: list[MonitorMaster] = []
    ranks.from_first(lambda: made.append(start(recipe, run)))
    if not made:
        yield Monitors()
    elif recipe.mlflow.tracking_uri is None:
        yield Monitors(made[0])
    else:
        with mlflow(recipe, run, say) as tracked:
            yield Monitors(made[0], tracked)


def start(recipe: Recipe, run: RunFolder) -> MonitorMaster:
    """Start DeepSpeed's monitors, which write into the run's folder by default.

    Raises:
        InputError: a monitor does not start.
    """
    config = get_monitor_config(placed(recipe, run))
    os.environ.setdefault("WANDB_NAME", recipe.name)  # DeepSpeed gives W&B no name
    try:
        master = MonitorMaster(config)
        if master.wandb_monitor is not None:
            import wandb

            values = dotted.without(recipe.model_dump(mode="json"), recipes.WATCHERS)
            wandb.config.update(values, allow_val_change=True)
    except Exception as error:  # each package raises its own errors
        names = " and ".join(f"deepspeed.{name}" for name in MONITORS if getattr(config, name).enabled)
        raise InputError(f"{names}: does not start: {one_line(error)}") from error
    if master.csv_monitor is not None:  # a resumed run's files already have headers
        master.csv_monitor.filenames = [path.stem for path in Path(master.csv_monitor.log_dir).glob("*.csv")]
    return master


def placed(recipe: Recipe, run: RunFolder) -> dict[str, Any]:
    """The monitors' sections, with bertline's defaults for where they write, under what name and how often."""
    asked = sections(recipe.deepspeed)
    return {name: {**_defaults(name, section, recipe, run), **section} for name, section in asked.items()}


def _defaults(name: str, section: dict[str, Any], recipe: Recipe, run: RunFolder) -> dict[str, Any]:
    if name == "wandb":
        return {}
    if name == "comet":  # the interval counts what `step` counts
        return {"experiment_name": recipe.name, "samples_log_interval": 1}
    return {"job_name": recipe.name} if "output_path" in section else {"output_path": str(run.path), "job_name": name}


def figures(values: dict[str, Any]) -> dict[str, float]:
    """The numbers in a line of metrics.jsonl, by name: train/loss, validation/accuracy."""
    found = {f"train/{name}": float(value) for name, value in values.items() if is_number(value)}
    for split in ("validation", "test"):
        scores = values.get(split, {})
        found |= {f"{split}/{name}": float(value) for name, value in scores.items() if is_number(value)}
    return found


def is_number(value: object) -> bool:
    """Whether a value can be plotted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fitting(name: str) -> str:
    """Make a valid MLflow parameter name: a recipe's keys may contain labels and columns, in any characters."""
    return re.sub(r"[^\w.\- ]", "_", name)[:250]


class Mlflow:
    """An MLflow run, written to in a thread so that a slow or unreachable server delays no step."""

    def __init__(self, recipe: Recipe, run: RunFolder, say: Say) -> None:
        self._recipe = recipe
        self._file = run.path / "mlflow.json"
        self._say = say
        self._client: Any = None
        self._run_id = ""
        self._lost = False
        self._thread = ThreadPoolExecutor(1, "mlflow")
        self._submit(self._begin)

    def write(self, step: int, found: dict[str, float]) -> None:
        """Log the figures of a step."""
        now = int(time() * 1000)
        self._submit(lambda: self._log(step, found, now))

    def end(self, status: str) -> None:
        """Record how the run ended, and wait until everything is written."""
        self._submit(lambda: self._client.set_terminated(self._run_id, status))
        self._thread.shutdown()

    def _submit(self, act: Callable[[], Any]) -> None:
        def guarded() -> None:
            if self._lost:
                return
            try:
                act()
            except Exception as error:  # whatever goes wrong with the server or a proxy before it
                self._lost = True
                self._say(f"mlflow: {one_line(error):.300}; the run goes on without it")

        self._thread.submit(guarded)

    def _log(self, step: int, found: dict[str, float], now: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, now, step) for name, value in found.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _begin(self) -> None:
        """Resume the run that mlflow.json names for the recipe's server and experiment, or create one."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        settings = self._recipe.mlflow
        self._client = MlflowClient(tracking_uri=settings.tracking_uri)
        place = settings.model_dump(mode="json")
        before = json.loads(self._file.read_text()) if self._file.exists() else {}
        if before and before == {**before, **place}:
            self._run_id = before["run_id"]
            self._client.update_run(self._run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(settings.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(settings.experiment)
        self._run_id = self._client.create_run(experiment, run_name=self._recipe.name).info.run_id
        files.write_json(self._file, {"run_id": self._run_id, **place})
        values = {fitting(name): value for name, value in dotted.flat(self._recipe.model_dump(mode="json"))}
        params = [Param(name, str(value)) for name, value in values.items() if value is not None]
        self._client.log_batch(self._run_id, params=params)


@contextmanager
def mlflow(recipe: Recipe, run: RunFolder, say: Say) -> Iterator[Mlflow]:
    """Track a run in MLflow while the block runs, and record how it ends."""
    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)
    tracked = Mlflow(recipe, run, say)
    status = "FAILED"
    try:
        yield tracked
        status = "FINISHED"
    except PreemptedError:
        status = "SCHEDULED"  # to be resumed
        raise
    finally:
        tracked.end(status)
