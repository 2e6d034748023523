"""A micro-batch that does not fit into memory is halved until it does: here the memory of this process is limited."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from bertline.artifacts.recipe import Training
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.train import memory
from bertline.train import model as models
from bertline.train.batches import Batches
from bertline.train.deepspeed_config import Precision
from bertline.train.losses import Loss
from tests.conftest import classifier, make_texts
from tests.train.conftest import encode

pytestmark = pytest.mark.usefixtures("rank")
MEGABYTE = 1_000_000


@contextmanager
def memory_of_at_most(more: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_micro_batch_is_halved_until_it_fits(model: Path, precision: Precision) -> None:
    task = catalog.make(classifier())
    examples = [Example(row["text"], None, row["label"]) for row in make_texts(2048)]
    tokenizer = task.tokenizer(model)
    split = encode(examples, task, tokenizer)
    training = Training(batch_size=2048)
    loss = Loss(task.settings, training, split.windows.targets)
    make_batches = partial(Batches, split, loss, tokenizer, rank=0, ranks=1)
    fit = partial(memory.fit, make_model=lambda: models.load(model, task, training), make_batches=make_batches)
    assert fit(training, loss=loss, precision=precision).micro_batch_size == 2048
    with memory_of_at_most(40 * MEGABYTE):
        fitted = fit(training, loss=loss, precision=precision)
    assert fitted.batch_size == 2048
    assert fitted.micro_batch_size in (64, 128, 256, 512, 1024)
    micro_batches = make_batches(fitted).at(0).micro_batches
    assert sum(len(part.targets) for part in micro_batches) == 2048
    assert max(len(part.targets) for part in micro_batches) == fitted.micro_batch_size


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
