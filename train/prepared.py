"""The data of a run, read and tokenized once, on disk for all ranks and for every later run that would make the same.

A folder is named by a fingerprint of all that it is made of: the content of the data files, what the recipe says of
task, data and tokens, the tokenizer, and the code that reads them. It appears whole, by a rename. Any may be removed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import bertline
from bertline.artifacts import files, machine
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe import Recipe
from bertline.tasks.task import Example, Task
from bertline.tasks.tokens import Encoded, Tokenizer
from bertline.train import data, sources
from bertline.train.data import SPLITS, Splits
from bertline.train.evaluation import Split
from bertline.train.losses import Target
from bertline.train.mapped import Windows
from bertline.train.progress import Progress

FOLDER = ".bertline-cache"
"""Beside the run: on the disk that all ranks see, and found again by the next run there."""
TEXTS = 4096
"""Tokenized at once."""
CODE = ("artifacts/*.py", "tasks/*.py", "train/data.py", "train/sources.py", "train/mapped.py", "train/prepared.py")
PACKAGES = ("tokenizers", "scikit-learn", "numpy", "pyarrow")
"""Those that what is prepared depends on, beside our own code."""


class Prepared(NamedTuple):
    """Splits, and each as the model reads it."""

    splits: Splits
    train: Split
    validation: Split
    test: Split


def prepare(recipe: Recipe, tokenizer: Path, cache: Path, progress: Progress) -> Path:
    """The folder of a recipe's data as the model reads it, made if it is not there.

    Args:
        recipe: names the data.
        tokenizer: folder of the model's.
        cache: where prepared data is kept.
        progress: shows how far it is.

    Raises:
        InputError: as `data.make`; or there is no room to write.
    """
    folder = cache / fingerprint(recipe, tokenizer)
    if folder.exists():
        return folder
    progress.say(f"reading {recipe.data.train}")
    try:
        files.write_text(cache / ".gitignore", "*\n")  # a run may stand in somebody's repository
        with files.new_folder(folder) as temporary:
            splits = data.make(recipe, temporary)
            reader = splits.task.tokenizer(tokenizer)
            for name in SPLITS:
                encode(name, getattr(splits, name), splits.task, reader, _path(temporary, name), progress)
    except InputError:
        if not folder.exists():  # else another run was quicker
            raise
    except OSError as error:
        raise InputError(
            f"{folder}: the data could not be written ({error}); make room, or name another --run"
        ) from error
    return folder


def load(recipe: Recipe, folder: Path) -> Prepared:
    """What `prepare` has put into a folder.

    Raises:
        InputError: this process does not see it.
    """
    if not folder.exists():
        raise InputError(f"{folder}: not seen here; all nodes of a run must share the disk that --run names")
    splits = data.load(recipe, folder)
    read = [Split(name, getattr(splits, name), Windows(_path(folder, name))) for name in SPLITS]
    return Prepared(splits, *read)


def encode(
    name: str, examples: Sequence[Example], task: Task, tokenizer: Tokenizer, path: Path, progress: Progress
) -> Split:
    """Write a split as the model reads it, and map it."""
    return Split(name, examples, Windows.write(path, _windows(name, examples, task, tokenizer, progress)))


def fingerprint(recipe: Recipe, tokenizer: Path) -> str:
    """A name for all that prepared data depends on; where the files lie is not of it."""
    package = Path(bertline.__file__).parent
    made_of = {
        "content": {name: sources.content(place, name) for name, place in sources.named(recipe.data).items()},
        "data": recipe.data.model_dump(mode="json", exclude=set(SPLITS)),
        "settings": recipe.settings([]).model_dump(mode="json"),
        "seed": recipe.training.seed,
        "tokenizer": files.sha256(tokenizer / "tokenizer.json"),
        "code": [files.sha256(path) for pattern in CODE for path in sorted(package.glob(pattern))],
        "versions": machine.versions(*PACKAGES),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def _windows(
    name: str, examples: Sequence[Example], task: Task, tokenizer: Tokenizer, progress: Progress
) -> Iterator[tuple[Encoded, Target]]:
    starts = range(0, len(examples), TEXTS)
    for first in progress.track(starts, len(starts), f"tokenizing {name}"):
        some = examples[first : first + TEXTS]
        for window in tokenizer.encode([example.texts for example in some]):
            yield window._replace(text=first + window.text), task.target(some[window.text], window)


def _path(folder: Path, split: str) -> Path:
    return folder / f"{split}-windows.arrow"
