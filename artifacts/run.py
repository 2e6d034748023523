"""The run folder, which `train` writes and every later stage starts from.

recipe.yaml            the resolved recipe
checkpoints/step-N/    DeepSpeed checkpoints, for resuming
best/                  the best checkpoint as a Hugging Face folder, in safetensors
splits/*.jsonl         the examples that were held out, and some training examples for calibration
metrics.jsonl          one line per logged step and per evaluation
run.json               settings and scores; written last, so a run without it is unfinished
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bertline.artifacts import files, places
from bertline.artifacts.errors import InputError
from bertline.artifacts.files import FileEntry
from bertline.artifacts.machine import Machine
from bertline.artifacts.task import Decision, Part, TaskSettings


@dataclass(frozen=True)
class RunFolder:
    """The paths of everything in a run."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether the folder is a run, finished or not."""
        return self.recipe.exists() or self.summary.exists()

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "run.json"

    def split(self, name: Literal["validation", "test", "calibration"]) -> Path:
        return self.path / "splits" / f"{name}.jsonl"

    @property
    def splits(self) -> list[Path]:
        """The files of all splits; some may not exist."""
        return [self.split("validation"), self.split("test"), self.split("calibration")]


class Best(Part):
    """The checkpoint kept as best/."""

    step: int
    value: float
    """Validation value of the metric that picked this checkpoint."""
    decision: Decision = Decision()
    """Decision rules as tuned in that evaluation."""


class DataFiles(Part):
    """The files that a split was read from."""

    revision: str | None = None
    """Commit of a hub data set."""
    files: list[FileEntry]
    """Files in order, named without their folders; for a hub data set, the Arrow files in the client's cache."""


class Provenance(Part):
    """Hashes of what a run was made from: the places named in its recipe may hold something else by now."""

    weights_sha256: str
    """Hash of the weights that the run started from."""
    revision: str | None = None
    """Commit of that model on a hub."""
    teacher_sha256: str | None = None
    """Hash of the teacher's weights or, if the teacher is a bundle, of its manifest."""
    data: dict[str, DataFiles]
    """Data files by split, for the splits that the recipe names."""


class Summary(TaskSettings):
    """run.json."""

    schema_version: Literal[1] = 1
    name: str
    model: str
    """Model that the run started from, as the recipe names it."""
    provenance: Provenance | None = None
    """Hashes of weights and data; None in runs of versions that did not record them."""
    metric: str
    best: Best
    validation: dict[str, Any]
    """Scores of best/ on the validation split."""
    test: dict[str, Any]
    """Scores of best/ on the test split."""
    data: dict[str, int]
    """Number of examples in each split."""
    ranks: int
    precision: str
    zero_stage: int
    steps: int
    seconds: float
    tokens_per_second: float
    """Training throughput over all ranks, padding not counted; the time includes waiting for batches."""
    padding_share: float
    """Share of padding in all tokens computed in training."""
    machine: Machine
    versions: dict[str, str]
    started: str
    finished: str
    files: list[FileEntry]
    """Every file of best/."""

    @property
    def held_to(self) -> str:
        """The score that a bundle must reach: the metric, or the task's first score where the metric is a loss."""
        return self.metric if self.metric in self.scores else self.scores[0]


def read_summary(folder: Path) -> Summary:
    """Read run.json of a finished run.

    Raises:
        InputError: `folder` is not a run (it may be a search), or the run did not finish.
    """
    run = RunFolder(folder)
    if not run.summary.is_file():
        if not folder.exists():
            raise InputError(f"{folder}: no such folder{places.near(folder)}")
        refuse_search(folder)
        if run.recipe.is_file():
            raise InputError(
                f"{folder}: the run did not finish; resume it: bertline train {run.recipe} --run {folder} --resume"
            )
        raise InputError(f"{folder}: not a run, it has no run.json; bertline train makes one")
    try:
        return Summary.model_validate_json(run.summary.read_bytes())
    except ValidationError as error:
        raise InputError(f"{run.summary}: not as bertline writes it: {error.errors()[0]['msg']}") from None


def refuse_search(folder: Path) -> None:
    """Raise InputError if `folder` is a search, which has a recipe.yaml as well."""
    if (folder / "folds").is_dir():
        best = folder / "best.yaml"
        resume = f"resume it: bertline search {folder / 'recipe.yaml'} -o {folder}"
        advice = f"train with its best settings: bertline train {best}" if best.is_file() else resume
        raise InputError(f"{folder}: a search, not a run; {advice}")


def verify(folder: Path) -> Summary:
    """Read a finished run and compare best/ with the sizes and hashes that run.json lists.

    Raises:
        InputError: see `read_summary`.
        DamagedError: names the first file that differs, is missing or is not listed.
    """
    summary = read_summary(folder)
    files.compare(RunFolder(folder).best, summary.files)
    return summary


def find(place: str, weights: bool = True) -> tuple[Path, Summary | None]:
    """Find the model folder that `place` names, and the summary of its run if it is one.

    The folder is best/ of a run, or a model as `places.model_folder` finds it.

    Raises:
        InputError: the run did not finish, or there is no model.
    """
    folder = RunFolder(places.expanded(place))
    if folder.exists:
        return folder.best, read_summary(folder.path)
    return places.model_folder(place, weights), None


def model(place: str, weights: bool = True) -> Path:
    """The model folder alone, as `find` returns it."""
    return find(place, weights)[0]
