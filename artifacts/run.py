"""The run folder: what `train` leaves behind, and what every later stage starts from.

recipe.yaml            the recipe as resolved
checkpoints/step-N/    DeepSpeed's, for resuming
best/                  the best checkpoint as a Hugging Face folder, safetensors
splits/*.jsonl         the very examples held out, and some training examples for calibration
metrics.jsonl          a line for each logged step and each evaluation
run.json               what it was and what it scored; written last, so a run without it is unfinished
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
    """The names of everything in a run."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether it is of a run, be that finished or not."""
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
        """All of them that there may be."""
        return [self.split("validation"), self.split("test"), self.split("calibration")]


class Best(Part):
    """The checkpoint kept as best/."""

    step: int
    value: float
    """Of the metric that chose it, on the validation split."""
    decision: Decision = Decision()
    """As tuned on that evaluation."""


class DataFiles(Part):
    """The files that a split was read from."""

    revision: str | None = None
    """The commit of a hub data set."""
    files: list[FileEntry]
    """In order, without their folders; of a hub data set its Arrow files, as the client keeps them."""


class Provenance(Part):
    """What a run was made of, by content: the places that its recipe names may hold something else by now."""

    weights_sha256: str
    """Of the model it started from."""
    revision: str | None = None
    """The commit of that model on a hub."""
    teacher_sha256: str | None = None
    """Of the teacher's weights, or of a bundle's manifest."""
    data: dict[str, DataFiles]
    """By the splits that the recipe names."""


class Summary(TaskSettings):
    """run.json."""

    schema_version: Literal[1] = 1
    name: str
    model: str
    """The place it started from, as the recipe names it."""
    provenance: Provenance | None = None
    """None in runs that were made before it was recorded."""
    metric: str
    best: Best
    validation: dict[str, Any]
    """Scores of best/ on the validation split."""
    test: dict[str, Any]
    """Scores of best/ on the test split."""
    data: dict[str, int]
    """Examples in each split."""
    ranks: int
    precision: str
    zero_stage: int
    steps: int
    seconds: float
    tokens_per_second: float
    """Real tokens, padding not counted, over all ranks, in the time of steps and of waiting for their batches."""
    padding_share: float
    """Of all tokens computed in training."""
    machine: Machine
    versions: dict[str, str]
    started: str
    finished: str
    files: list[FileEntry]
    """Of best/."""

    @property
    def held_to(self) -> str:
        """The score that a bundle is held to: the metric, or the task's first where the run went by a loss."""
        return self.metric if self.metric in self.scores else self.scores[0]


def read_summary(folder: Path) -> Summary:
    """run.json of a finished run.

    Raises:
        InputError: `folder` is no run, the folder of a search for example, or one that did not finish.
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
    """Raise InputError if `folder` is of a search, which has a recipe.yaml as a run has."""
    if (folder / "folds").is_dir():
        best = folder / "best.yaml"
        going_on = f"go on with it: bertline search {folder / 'recipe.yaml'} -o {folder}"
        advice = f"train with its best settings: bertline train {best}" if best.is_file() else going_on
        raise InputError(f"{folder}: a search, not a run; {advice}")


def verify(folder: Path) -> Summary:
    """Read a finished run and compare best/ with the sizes and hashes that run.json lists.

    Raises:
        InputError: as `read_summary`.
        DamagedError: the first file that differs, is missing or is not listed.
    """
    summary = read_summary(folder)
    files.compare(RunFolder(folder).best, summary.files)
    return summary


def find(place: str, weights: bool = True) -> tuple[Path, Summary | None]:
    """The model folder that `place` names, and what run.json says where it is a run's.

    That is best/ of a run, or a model itself, as `places.model_folder` finds it.

    Raises:
        InputError: a run that did not finish, or no model there.
    """
    folder = RunFolder(places.expanded(place))
    if folder.exists:
        return folder.best, read_summary(folder.path)
    return places.model_folder(place, weights), None


def model(place: str, weights: bool = True) -> Path:
    """The folder that `find` finds."""
    return find(place, weights)[0]
