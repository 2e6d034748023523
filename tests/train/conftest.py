"""Runs of a tiny encoder in this process as the only rank, which take about a second each."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bertline.artifacts import recipe as recipes
from bertline.artifacts.run import RunFolder
from bertline.tasks.task import Example, Task
from bertline.tasks.tokens import Tokenizer
from tests.conftest import make_model, make_texts

if TYPE_CHECKING:
    from bertline.train.data.prepared import Tokenized
    from bertline.train.loop import Trainer

RECIPE = """\
name: tiny
task: text-classification
model: {model}
data:
  train: {data}
  take: {{train: 90, validation: 20, test: 30}}
tokens: {{max_length: 32}}
training:
  epochs: 2
  learning_rate: 1.0e-3
  batch_size: 16
  precision: fp32
  dropout: 0.0
  logging_steps: 1
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without a head, shared by all tests of this folder."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def recipe(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 12 steps: 90 texts in batches of 16, the last of 10, twice."""
    return write_recipe(model, tmp_path_factory.mktemp("recipe"))


def write_recipe(model: Path, folder: Path) -> Path:
    """Write RECIPE and its texts into a folder."""
    rows = make_texts(150, seed=1)
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model, data=folder / "texts.jsonl"))
    return folder / "recipe.yaml"


def train_here(
    recipe: Path,
    folder: Path,
    sets: Sequence[str] = (),
    resume: bool = False,
    stop: int = 0,
    look: "Callable[[Trainer], None]" = lambda trainer: None,
) -> RunFolder:
    """Run a recipe in this process, which the fixture `rank` has made a rank.

    Args:
        recipe: YAML file.
        folder: the run folder.
        sets: overrides of recipe keys.
        resume: whether to resume.
        stop: raise KeyboardInterrupt after this step, as Ctrl-C would.
        look: called with the trainer before training begins.
    """
    from bertline.train import run_folder, setup
    from bertline.train.finish import finish
    from bertline.train.progress import Progress

    class Watched(Progress):
        def step(self, step: int, loss: float, tokens_per_second: float, log: bool) -> None:
            if step == stop:
                raise KeyboardInterrupt

    run = RunFolder(folder)
    progress = Watched(speaks=False)
    with run_folder.alone(run), setup.trainer(recipes.load(recipe, sets), run, resume, progress) as (trainer, prepared):
        look(trainer)
        trainer.train()
        finish(trainer, prepared)
    return run


def encode(examples: Sequence[Example], task: Task, tokenizer: Tokenizer) -> "Tokenized":
    """Examples as a training split, in a file that exists only while it is mapped."""
    from bertline.train.data import prepared
    from bertline.train.data.mapped import Windows
    from bertline.train.progress import Progress

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "windows.arrow"
        read = prepared.windows("train", (examples,), task, tokenizer, Progress(speaks=False))
        return prepared.Tokenized("train", examples, Windows.write(path, read))


def losses(run: RunFolder) -> list[float]:
    """The loss of each step, in order."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def logged(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the values that depend on the clock."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]
