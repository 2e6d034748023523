"""A micro-batch that does not fit into memory is halved until it does; the test on a real device is in test_gpu.py."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.comm import ReduceOp
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from torch import nn

from bertline.artifacts.recipe_schema import Recipe, Training
from bertline.tasks import catalog
from bertline.tasks.task import Example, Task
from bertline.train import memory, ranks
from bertline.train import model as models
from bertline.train.data.batches import Batches
from bertline.train.deepspeed_config import Precision, configure
from bertline.train.distillation.relations import Relations
from bertline.train.losses import Loss
from bertline.train.objective import Objective
from tests.conftest import classifier, make_texts
from tests.train.conftest import encode

pytestmark = pytest.mark.usefixtures("rank")
ROOM = 20
"""How many texts the test's model can compute forward at once; backward it is one less."""
ZERO = DeepSpeedZeroConfig(stage=0)


def limited_forward(model: nn.Module, seen: list[int]) -> nn.Module:
    """Let a model run out of memory in its forward pass, with torch's error for GPUs."""

    def forward(module: nn.Module, arguments: Any, named: dict[str, torch.Tensor]) -> None:
        seen.append(len(named["input_ids"]))
        if seen[-1] > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(forward, with_kwargs=True)
    return model


def limited(model: nn.Module, seen: list[int]) -> nn.Module:
    """The same, and for one size only in its backward pass."""

    def backward(gradient: torch.Tensor) -> None:
        if seen[-1] > ROOM - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    limited_forward(model, seen)
    model.get_parameter("classifier.weight").register_hook(backward)  # type: ignore[no-untyped-call]
    return model


def trial(
    model: Path, training: Training
) -> tuple[Task, Callable[[nn.Module], Objective], Callable[[Training], Batches]]:
    """Arguments of `memory.fit` for 64 texts."""
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    split = encode([Example(row["text"], None, row["label"]) for row in make_texts(64)], task, tokenizer)
    objective = Objective(Loss(task.settings, training, split.windows.targets))
    return task, lambda _: objective, partial(Batches, split, objective, tokenizer, rank=0, ranks=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch_size", "sizes"), [(64, [64, 32, 16]), (20, [20, 10]), (16, [16]), (1, [])])
def test_a_micro_batch_is_halved_until_it_fits(
    model: Path, precision: Precision, batch_size: int, sizes: list[int]
) -> None:
    training = Training(batch_size=batch_size)
    task, make_objective, make_batches = trial(model, training)
    seen: list[int] = []
    fitted = memory.fit(
        training,
        ZERO,
        lambda: limited(models.load(model, task, training), seen),
        make_batches,
        make_objective,
        precision,
    )
    assert seen == sizes
    assert fitted.batch_size == batch_size
    assert fitted.micro_batch_size == (sizes or [1])[-1]


def test_a_teacher_that_computes_beside_the_model_has_to_fit_too(model: Path) -> None:
    training = Training(batch_size=64)
    task, make_objective, make_batches = trial(model, training)
    seen: list[int] = []
    made: list[Relations] = []

    def compared(student: nn.Module) -> Objective:
        made.append(Relations(student, limited_forward(models.load(model, task, training), seen), 1.0, "fp32"))
        return replace(make_objective(student), relations=made[0])

    fitted = memory.fit(training, ZERO, lambda: models.load(model, task, training), make_batches, compared, "fp32")
    assert seen == [64, 32, 16]
    assert fitted.micro_batch_size == 16
    assert [watched._seen for watched in (made[0]._of_student, made[0]._of_teacher)] == [{}, {}]


@pytest.mark.parametrize(
    ("section", "besides", "summed"),
    [
        ({"stage": 0}, 12_000, 4_000),
        ({"stage": 1}, 6_000 + 400_000_000, 4_000),
        ({"stage": 3, "reduce_bucket_size": 1000}, 6_000 + 8_000, 2_000),
        ({"stage": 1, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "cpu"}}, 8_000, 4_000),
        ({"stage": 2, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "cpu"}}, 8_000, 0),
        ({"stage": 2, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "none"}}, 6_000 + 8_000, 2_000),
    ],
)
def test_room_is_kept_for_what_deepspeed_takes(section: dict[str, Any], besides: int, summed: int) -> None:
    """AdamW's moments, gradients and ZeRO's reduce buckets, with the settings of the recipe's section too."""
    recipe = Recipe.model_validate({
        "name": "a", "task": "text-classification", "model": "m", "data": {"train": "t.csv"},
        "training": {"zero_stage": section["stage"]}, "deepspeed": {"zero_optimization": section},
    })  # fmt: skip
    zero = DeepSpeedZeroConfig(**configure(recipe, 2, "fp32")["zero_optimization"])
    assert memory.beside_passes(zero, 1000, 2, accumulates=False) == besides
    assert memory.beside_passes(zero, 1000, 2, accumulates=True) == besides + summed


def test_room_that_is_kept_is_not_there_for_the_passes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(batch_size=8)
    task, make_objective, make_batches = trial(model, training)
    monkeypatch.setattr(memory, "beside_passes", lambda *_: 1 << 60)
    fitted = memory.fit(
        training, ZERO, lambda: models.load(model, task, training), make_batches, make_objective, "fp32"
    )
    assert fitted.micro_batch_size == 1


def test_room_is_kept_for_gradients_that_wait_and_for_gaps(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(batch_size=8)
    task, make_objective, make_batches = trial(model, training)
    trained = sum(parameter.numel() for parameter in models.load(model, task, training).parameters())
    kept: list[int] = []
    monkeypatch.setattr(memory, "fits", lambda *given: kept.append(given[4]))
    monkeypatch.setattr(ranks, "on_cpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1000))
    memory.fit(training, ZERO, lambda: models.load(model, task, training), make_batches, make_objective, "fp32")
    assert kept == [12 * trained + 50, 16 * trained + 50, 16 * trained + 50]


def test_what_is_no_lack_of_memory_is_raised(model: Path) -> None:
    training = Training(batch_size=8)
    task, make_objective, make_batches = trial(model, training)

    def broken() -> nn.Module:
        made = models.load(model, task, training)
        made.get_parameter("classifier.weight").data = torch.zeros(2, 3)
        return made

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        memory.fit(training, ZERO, broken, make_batches, make_objective, "fp32")


def test_the_rest_of_a_batch_is_made_up_for(model: Path) -> None:
    training = Training(batch_size=64)
    _, _, make_batches = trial(model, training)
    micro_batches = make_batches(training.model_copy(update={"micro_batch_size": 16})).at(0).micro_batches
    assert [len(part.targets) for part in micro_batches] == [16] * 4


@pytest.mark.parametrize("different", [64, 1])
def test_the_heaviest_micro_batch_has_the_longest_texts(model: Path, different: int) -> None:
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    rows = make_texts(different) * (64 // different)
    split = encode([Example(row["text"], None, row["label"]) for row in rows], task, tokenizer)
    training = Training(batch_size=32, micro_batch_size=8)
    batches = Batches(split, Objective(Loss(task.settings, training, split.windows.targets)), tokenizer, training, 0, 2)
    heaviest = batches.heaviest()
    assert heaviest.inputs["input_ids"].shape == (8, int(split.windows.lengths.max()))
    lengths = heaviest.inputs["attention_mask"].sum(dim=1)
    longest = torch.from_numpy(split.windows.lengths).sort().values[-8:]
    assert torch.equal(lengths[1:], longest[1:])
    assert lengths[0] == min(longest[0], longest[-1] - 1), "without any padding, attention would need less memory"


def test_all_ranks_take_what_fits_on_each(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(batch_size=8)
    task, make_objective, make_batches = trial(model, training)

    def reduce(size: torch.Tensor, op: Any) -> None:
        assert op == ReduceOp.MIN
        size.fill_(3)

    monkeypatch.setattr("bertline.train.memory.dist.all_reduce", reduce)
    fitted = memory.fit(
        training, ZERO, lambda: models.load(model, task, training), make_batches, make_objective, "fp32"
    )
    assert fitted.micro_batch_size == 3
