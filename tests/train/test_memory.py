"""A micro-batch that does not fit into memory is halved until it does."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from bertline.artifacts.recipe import Training
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.train.batches import Batches
from bertline.train.losses import Loss
from tests.conftest import classifier, make_texts
from tests.train.conftest import encode
from tests.train.short_of_memory import TEXTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_micro_batch_is_halved_until_it_fits(model: Path, precision: str) -> None:
    """In a process of its own, for malloc keeps what this one had."""
    line = [sys.executable, "-m", "tests.train.short_of_memory", str(model), precision]
    variables = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout.splitlines()[-1])
    assert many == TEXTS
    assert few in (32, 64, 128, 256, 512, 1024)


def test_the_rest_of_a_batch_is_made_up_for(model: Path) -> None:
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    split = encode([Example(row["text"], None, row["label"]) for row in make_texts(64)], task, tokenizer)
    training = Training(batch_size=64)
    loss = Loss(task.settings, training, split.windows.targets)
    make_batches = partial(Batches, split, loss, tokenizer, rank=0, ranks=1)
    micro_batches = make_batches(training.model_copy(update={"micro_batch_size": 16})).at(0).micro_batches
    assert [len(part.targets) for part in micro_batches] == [16] * 4


def test_the_heaviest_micro_batch_has_the_longest_texts(model: Path) -> None:
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    rows = make_texts(64)
    split = encode([Example(row["text"], None, row["label"]) for row in rows], task, tokenizer)
    training = Training(batch_size=32, micro_batch_size=8)
    batches = Batches(split, Loss(task.settings, training, split.windows.targets), tokenizer, training, 0, 2)
    heaviest = batches.heaviest()
    assert heaviest.inputs["input_ids"].shape == (8, int(split.windows.lengths.max()))
    lengths = heaviest.inputs["attention_mask"].sum(dim=1)
    assert torch.equal(lengths, torch.from_numpy(split.windows.lengths).sort().values[-8:])
