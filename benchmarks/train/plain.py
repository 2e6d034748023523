"""Training loops in plain PyTorch: one with bertline's own batches, and one as found in tutorials.

Both use the same model, tokens, precision, batch size and learning rate as bertline; neither has a schedule.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from bertline.artifacts import places
from bertline.artifacts import recipe as recipes
from bertline.artifacts.recipe_schema import Recipe
from bertline.benchmarks.train.job import Clock, Counts, Job
from bertline.models import pytorch


def bare(job: Job, clock: Clock) -> Counts:
    """The reference loop for bertline: the same batches, prefetched; fused AdamW; gradient clipping."""
    from bertline.benchmarks.train import prepare

    torch.backends.cuda.enable_cudnn_sdp(False)  # as in train/ranks.py
    recipe = recipes.read(job.recipe)
    ready = prepare.load(recipe, job.work)
    batches = prepare.batches(recipe, ready, ranks=1)
    model = classifier(job, len(ready.splits.task.labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate, fused=True)
    counts, precision = [], autocast(job.device, recipe)
    for batch in islice(batches.prefetch(0, pin=job.device == "cuda"), job.steps):
        micro_batch = batch.micro_batches[0].to(torch.device(job.device))
        with precision:
            logits = model(**micro_batch.inputs).logits
        loss: Any = functional.cross_entropy(logits.float(), micro_batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        counts.append((batch.tokens, batch.computed_tokens))
        clock.tick()
    return counts


def tutorial(job: Job, clock: Clock) -> Counts:
    """The loop that tutorials show: texts in random order, each padded to `max_length`; AdamW with defaults."""
    recipe = recipes.read(job.recipe)
    labels, rows = examples(job)
    padded = [{name: _tensor(values, recipe.tokens.max_length) for name, values in row.items()} for row in rows]
    model = classifier(job, labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate)
    counts, precision = [], autocast(job.device, recipe)
    loader: Iterator[Any] = iter(DataLoader(padded, recipe.training.batch_size, shuffle=True))  # type: ignore[arg-type]
    for batch in islice(loader, job.steps):
        counts.append(tokens(batch))
        batch = {name: values.to(job.device) for name, values in batch.items()}
        with precision:
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return counts


def examples(job: Job) -> tuple[int, list[dict[str, Any]]]:
    """The number of labels, and the rows that `prepare` wrote."""
    made = json.loads((job.work / "examples.json").read_bytes())
    return made["labels"], made["rows"]


def classifier(job: Job, labels: int) -> nn.Module:
    """The recipe's encoder with a new head, in training mode."""
    recipe = recipes.read(job.recipe)
    torch.manual_seed(recipe.training.seed)
    folder = places.model_folder(recipe.model)
    return pytorch.load(folder, "ForSequenceClassification", trained=False, num_labels=labels).to(job.device).train()


def autocast(device: str, recipe: Recipe) -> torch.autocast:
    """Autocast to the recipe's precision, as bertline does for forward passes."""
    return torch.autocast(device, torch.bfloat16, enabled=recipe.training.precision == "bf16")


def tokens(batch: dict[str, torch.Tensor]) -> tuple[int, int]:
    """The number of real tokens in a batch, and of all tokens computed."""
    mask = batch["attention_mask"]
    return int(mask.sum()), mask.numel()


def _tensor(values: list[int] | int, length: int) -> torch.Tensor:
    """A label; or token ids, types or mask padded with zeros, which is BERT's padding for each."""
    if isinstance(values, int):
        return torch.tensor(values)
    return functional.pad(torch.tensor(values), (0, length - len(values)))
