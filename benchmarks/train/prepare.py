"""Prepares the data of the benchmark once, so that all systems get the same texts and token ids.

    python -m bertline.benchmarks.train.prepare RECIPE WORK DEVICE STEPS PRECISION...

The folder WORK then holds a resolved recipe for each precision, `runs/` with the data in bertline's cache format,
`examples.json` with the rows that the other systems read, and `counts.json` with the tokens of bertline's batches by
number of ranks.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bertline.artifacts import files, places
from bertline.artifacts import recipe as recipes
from bertline.artifacts.recipe_schema import Recipe
from bertline.benchmarks.train.job import Counts, Device
from bertline.models import tokenizer_json
from bertline.train.cache import FOLDER
from bertline.train.data import prepared
from bertline.train.data.batches import Batches
from bertline.train.data.prepared import Prepared
from bertline.train.losses import Loss
from bertline.train.objective import Objective
from bertline.train.progress import Progress

RANKS = (1, 2)


def prepare(path: Path, work: Path, device: Device, steps: int, precisions: list[str]) -> None:
    """Fill the folder.

    Args:
        path: the recipe.
        work: an empty folder.
        device: on a GPU the model is BERT-base.
        steps: what is measured; an epoch has as many.
        precisions: those to write a resolved recipe for.

    Raises:
        InputError: as `recipes.load` and `splitting.make`.
    """
    recipe = _of(steps, recipes.load(path))
    if device == "cuda":
        recipe = recipe.model_copy(update={"model": str(bert_base(places.model_folder(recipe.model), work / "model"))})
    for precision in precisions:
        training = recipe.training.model_copy(update={"precision": precision})
        recipes.save(recipe.model_copy(update={"training": training}), work / f"{precision}.yaml")
    ready = load(recipe, work)
    rows = [_row(ready, index) for index in range(len(ready.train.windows))]
    files.write_text(work / "examples.json", json.dumps({"labels": len(ready.splits.task.labels), "rows": rows}))
    counts = {ranks: count(batches(recipe, ready, ranks)) for ranks in RANKS}
    files.write_text(work / "counts.json", json.dumps(counts))


def load(recipe: Recipe, work: Path) -> Prepared:
    """The data from bertline's cache of the runs in `work/runs`, which is filled if need be."""
    with tokenizer_json.temporary(places.model_folder(recipe.model)) as tokenizer:
        made = prepared.prepare(recipe, tokenizer, work / "runs" / FOLDER, Progress(speaks=False))
    return prepared.load(recipe, made)


def batches(recipe: Recipe, ready: Prepared, ranks: int) -> Batches:
    """The batches of bertline's rank 0."""
    task = ready.splits.task
    objective = Objective(Loss(task.settings, recipe.training, ready.train.windows.targets))
    with tokenizer_json.temporary(places.model_folder(recipe.model)) as tokenizer:
        return Batches(ready.train, objective, task.tokenizer(tokenizer), recipe.training, rank=0, ranks=ranks)


def count(made: Batches) -> Counts:
    """The number of tokens in each step of an epoch."""
    each = map(made.at, range(made.steps_per_epoch))
    return [(batch.tokens, batch.computed_tokens) for batch in each]


def bert_base(tokenizer: Path, folder: Path) -> Path:
    """BERT-base with random weights (seed 0) and another model's tokenizer, whose vocabulary is BERT's."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder, safe_serialization=True)
    with tokenizer_json.temporary(tokenizer) as found:
        for file in found.iterdir():
            files.write_bytes(folder / file.name, file.read_bytes())
    return folder


def _of(steps: int, recipe: Recipe) -> Recipe:
    """The recipe with an epoch of so many steps."""
    take = recipe.data.take.model_copy(update={"train": steps * recipe.training.batch_size})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"take": take})})


def _row(ready: Prepared, index: int) -> dict[str, Any]:
    """An example in the form of transformers' tokenizers, without padding."""
    window = ready.train.windows[index]
    return {
        "input_ids": window.input_ids.tolist(),
        "token_type_ids": window.type_ids.tolist(),
        "attention_mask": [1] * len(window.input_ids),
        "labels": int(ready.train.windows.targets[index]),
    }


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:])  # type: ignore[arg-type]
