"""The data of a run, read and tokenized once, and cached on disk for all ranks and for later runs that need the same.

It depends on the content of the data files, the recipe's settings for task, data and tokens, and the tokenizer.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bertline.artifacts import files
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import DataFiles
from bertline.artifacts.sequences import batched
from bertline.tasks.task import Example, Output, Target, Task
from bertline.tasks.tokens import Encoded, Tokenizer
from bertline.train import preemption
from bertline.train.cache import make_once, place
from bertline.train.data import sources, splitting
from bertline.train.data.mapped import Windows
from bertline.train.data.sources import UNLABELLED
from bertline.train.data.splitting import SPLITS, Splits
from bertline.train.progress import Progress

FILES = "files.json"
TEXTS = 4096
"""Texts tokenized per call."""


@dataclass(frozen=True)
class Tokenized:
    """A split as the model reads it: one window per text, or several for a long text."""

    name: str
    examples: Sequence[Example]
    windows: Windows
    teacher: Sequence[Output] | None = None
    """A teacher's outputs, one per window."""


class Prepared(NamedTuple):
    """The splits of a run, each with its tokenized form."""

    splits: Splits
    train: Tokenized
    """The windows of its examples, followed by those of the unlabelled texts."""
    validation: Tokenized
    test: Tokenized
    files: dict[str, DataFiles]
    """The files that the data was read from, by the splits that the recipe names."""


def prepare(recipe: Recipe, tokenizer: Path, cache: Path, progress: Progress) -> Path:
    """Return the folder of a recipe's prepared data, making it if it does not exist.

    Args:
        recipe: names the data.
        tokenizer: folder of the model's tokenizer.
        cache: where prepared data is kept.
        progress: shows the progress of reading and tokenizing.

    Raises:
        InputError: as `splitting.make`; or the disk is full.
        PreemptedError: this process was asked to stop.
    """

    def fill(temporary: Path) -> None:
        progress.say(f"reading {recipe.data.train}")
        splits = splitting.make(recipe, temporary)
        read = {name: entry.model_dump() for name, entry in sources.provenance(recipe.data).items()}
        files.write_json(temporary / FILES, read)
        reader = splits.task.tokenizer(tokenizer)
        texts = {"train": (splits.train, splits.unlabelled)}
        for name in SPLITS:
            parts = texts.get(name, (getattr(splits, name),))
            Windows.write(_path(temporary, name), windows(name, parts, splits.task, reader, progress))

    return make_once(folder_of(recipe, tokenizer, cache), fill)


def load(recipe: Recipe, folder: Path) -> Prepared:
    """Load the data that `prepare` has written to a folder.

    Raises:
        InputError: the folder is not visible to this process.
    """
    if not folder.exists():
        raise InputError(f"{folder}: not found on this node; all nodes of a run must share the disk that --run names")
    splits = splitting.load(recipe, folder)
    train, validation, test = (Tokenized(name, getattr(splits, name), Windows(_path(folder, name))) for name in SPLITS)
    listed = json.loads((folder / FILES).read_bytes())
    read = {name: DataFiles.model_validate(entry) for name, entry in listed.items()}
    return Prepared(splits, train, validation, test, read)


def folder_of(recipe: Recipe, tokenizer: Path, cache: Path) -> Path:
    """The folder of a recipe's prepared data, named by a hash of all that it depends on; file paths do not matter."""
    made_of = {
        "content": sources.content(recipe.data),
        "data": recipe.data.model_dump(mode="json", exclude={*SPLITS, UNLABELLED}),
        "settings": recipe.settings([]).model_dump(mode="json"),
        "seed": recipe.training.seed,
        "tokenizer": files.sha256(tokenizer / "tokenizer.json"),
    }
    return place(cache, "data", made_of)


def windows(
    name: str, parts: Sequence[Sequence[Example]], task: Task, tokenizer: Tokenizer, progress: Progress
) -> Iterator[tuple[Encoded, Target]]:
    """Yield each window of a split and its target, from all its parts in turn.

    Raises:
        PreemptedError: this process was asked to stop.
    """
    batches = -(-sum(map(len, parts)) // TEXTS)
    for number, some in enumerate(progress.track(batched(chain(*parts), TEXTS), batches, f"tokenizing {name}")):
        if preemption.asked.is_set():
            raise PreemptedError(f"tokenizing {name}: stopped as asked, and nothing was kept")
        for window in tokenizer.encode([example.texts for example in some]):
            yield window._replace(text=number * TEXTS + window.text), task.target(some[window.text], window)


def _path(folder: Path, split: str) -> Path:
    return folder / f"{split}-windows.arrow"
