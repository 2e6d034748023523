"""A micro-batch that does not fit into memory is halved until it does; the test on a real device is in test_gpu.py."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bertline.artifacts.recipe_schema import Training
from bertline.tasks import catalog
from bertline.tasks.task import Example, Task
from bertline.train import memory
from bertline.train import model as models
from bertline.train.data.batches import Batches
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation.relations import Relations
from bertline.train.losses import Loss, Objective
from tests.conftest import classifier, make_texts
from tests.train.conftest import encode

pytestmark = pytest.mark.usefixtures("rank")
ROOM = 20
"""Texts at once that the model of the test has memory for, forward; one less fits backward as well."""


def limited_forward(model: nn.Module, seen: list[int]) -> nn.Module:
    """A model that runs out of memory as torch says it of a GPU."""

    def forward(module: nn.Module, arguments: Any, named: dict[str, torch.Tensor]) -> None:
        seen.append(len(named["input_ids"]))
        if seen[-1] > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(forward, with_kwargs=True)
    return model


def limited(model: nn.Module, seen: list[int]) -> nn.Module:
    """The same, of one size only backward."""

    def backward(gradient: torch.Tensor) -> None:
        if seen[-1] > ROOM - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    limited_forward(model, seen)
    model.get_parameter("classifier.weight").register_hook(backward)  # type: ignore[no-untyped-call]
    return model


def trial(model: Path, training: Training) -> tuple[Task, Objective, Callable[[Training], Batches]]:
    """What `memory.fit` is given for 64 texts."""
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    split = encode([Example(row["text"], None, row["label"]) for row in make_texts(64)], task, tokenizer)
    loss = Objective(Loss(task.settings, training, split.windows.targets))
    return task, loss, partial(Batches, split, loss, tokenizer, rank=0, ranks=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch_size", "sizes"), [(64, [64, 32, 16]), (20, [20, 10]), (16, [16]), (1, [])])
def test_a_micro_batch_is_halved_until_it_fits(
    model: Path, precision: Precision, batch_size: int, sizes: list[int]
) -> None:
    training = Training(batch_size=batch_size)
    task, loss, make_batches = trial(model, training)
    seen: list[int] = []
    fitted = memory.fit(
        training, lambda: limited(models.load(model, task, training), seen), make_batches, loss, precision
    )
    assert seen == sizes
    assert fitted.batch_size == batch_size
    assert fitted.micro_batch_size == (sizes or [1])[-1]


def test_a_teacher_that_computes_beside_the_model_has_to_fit_too(model: Path) -> None:
    training = Training(batch_size=64)
    task, loss, make_batches = trial(model, training)
    seen: list[int] = []
    made: list[Relations] = []

    def compare(student: nn.Module) -> Relations:
        made.append(Relations(student, limited_forward(models.load(model, task, training), seen), 1.0))
        return made[0]

    fitted = memory.fit(training, lambda: models.load(model, task, training), make_batches, loss, "fp32", compare)
    assert seen == [64, 32, 16]
    assert fitted.micro_batch_size == 16
    assert [watched._seen for watched in (made[0]._of_student, made[0]._of_teacher)] == [{}, {}]


@pytest.mark.parametrize(("stage", "buckets"), [(0, 0), (1, 400_000_000)])
def test_room_is_kept_for_what_deepspeed_takes(
    model: Path, monkeypatch: pytest.MonkeyPatch, stage: int, buckets: int
) -> None:
    """AdamW's moments, gradients, and with ZeRO what they are reduced in."""
    training = Training(batch_size=8, zero_stage=stage)
    task, loss, make_batches = trial(model, training)
    made, asked = models.load(model, task, training), list[int]()

    def fits(*arguments: Any) -> bool:
        asked.append(arguments[4])
        return True

    monkeypatch.setattr(memory, "fits", fits)
    memory.fit(training, lambda: made, make_batches, loss, "fp32")
    assert asked == [12 * sum(each.numel() for each in made.parameters()) + buckets]


def test_what_is_no_lack_of_memory_is_raised(model: Path) -> None:
    training = Training(batch_size=8)
    task, loss, make_batches = trial(model, training)

    def broken() -> nn.Module:
        made = models.load(model, task, training)
        made.get_parameter("classifier.weight").data = torch.zeros(2, 3)
        return made

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        memory.fit(training, broken, make_batches, loss, "fp32")


def test_the_rest_of_a_batch_is_made_up_for(model: Path) -> None:
    training = Training(batch_size=64)
    _, _, make_batches = trial(model, training)
    micro_batches = make_batches(training.model_copy(update={"micro_batch_size": 16})).at(0).micro_batches
    assert [len(part.targets) for part in micro_batches] == [16] * 4


def test_the_heaviest_micro_batch_has_the_longest_texts(model: Path) -> None:
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    rows = make_texts(64)
    split = encode([Example(row["text"], None, row["label"]) for row in rows], task, tokenizer)
    training = Training(batch_size=32, micro_batch_size=8)
    batches = Batches(split, Objective(Loss(task.settings, training, split.windows.targets)), tokenizer, training, 0, 2)
    heaviest = batches.heaviest()
    assert heaviest.inputs["input_ids"].shape == (8, int(split.windows.lengths.max()))
    lengths = heaviest.inputs["attention_mask"].sum(dim=1)
    assert torch.equal(lengths, torch.from_numpy(split.windows.lengths).sort().values[-8:])
