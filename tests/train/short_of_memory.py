"""A process of its own whose memory is limited: says how many texts at once it finds room for, then without limit."""

import json
import resource
import sys
from functools import partial
from pathlib import Path
from typing import cast

import psutil
import torch

from bertline.artifacts.recipe import Training
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.train import memory, ranks
from bertline.train import model as models
from bertline.train.batches import Batches
from bertline.train.deepspeed_config import Precision
from bertline.train.losses import Loss
from tests.conftest import classifier, make_texts
from tests.train.conftest import encode

TEXTS = 2048
ROOM = 150_000_000
"""Bytes beside those that it has when it begins."""


def main(model: Path, precision: Precision) -> list[int | None]:
    """The micro-batch with little memory, and with as much as there is."""
    ranks.start()
    torch.set_num_threads(1)
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    split = encode([Example(row["text"], None, row["label"]) for row in make_texts(TEXTS)], task, tokenizer)
    training = Training(batch_size=TEXTS)
    loss = Loss(task.settings, training, split.windows.targets)
    make_batches = partial(Batches, split, loss, tokenizer, rank=0, ranks=1)
    fit = partial(memory.fit, training, lambda: models.load(model, task, training), make_batches, loss)
    most = psutil.Process().memory_info().vms + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    few = fit(precision).micro_batch_size
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return [few, fit(precision).micro_batch_size]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), cast(Precision, sys.argv[2]))))
