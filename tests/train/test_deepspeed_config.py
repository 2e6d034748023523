"""DeepSpeed's configuration as a pure function: every precision and ZeRO stage, and every contradiction."""

from typing import Any

import pytest

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Recipe, Training
from bertline.train import deepspeed_config
from bertline.train.deepspeed_config import Precision


def make(deepspeed: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return Recipe.model_validate({
        "name": "a", "task": "text-classification", "model": "m", "data": {"train": "t.csv"},
        "training": {"batch_size": 32, **training}, "deepspeed": deepspeed or {},
    })  # fmt: skip


PRECISIONS: dict[Precision, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
    "fp16": {"fp16": {"enabled": True, "loss_scale": 0}},
}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_and_stage(precision: Precision, stage: int) -> None:
    assert deepspeed_config.configure(make(zero_stage=stage, max_grad_norm=0.5), 2, precision) == {
        "train_micro_batch_size_per_gpu": 16,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "zero_force_ds_cpu_optimizer": False,
        "timers": {"throughput": {"enabled": False}},
        "zero_optimization": {"stage": stage, "reduce_bucket_size": 50_000_000},
        **PRECISIONS[precision],
    }


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fp16_is_never_without_zero(precision: Precision, stage: int) -> None:
    """DeepSpeed would not scale the loss there."""
    staged = deepspeed_config.staged(make(zero_stage=stage), precision)
    assert staged.training.zero_stage == (1 if precision == "fp16" and stage == 0 else stage)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "ranks", "micro", "steps"),
    [
        (32, None, 1, 32, 1),
        (32, None, 3, 11, 1),
        (32, 8, 2, 8, 2),
        (32, 64, 2, 16, 1),
        (10, 2, 3, 2, 2),
        (2, 8, 4, 1, 1),
    ],
)
def test_accumulation_follows_from_the_ranks(
    batch_size: int, micro_batch_size: int | None, ranks: int, micro: int, steps: int
) -> None:
    training = Training(batch_size=batch_size, micro_batch_size=micro_batch_size)
    assert deepspeed_config.micro_batch_size(training, ranks) == micro
    assert deepspeed_config.accumulation_steps(training, ranks) == steps
    assert micro * steps * ranks >= batch_size


def test_the_recipes_section_is_laid_over() -> None:
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 1_000}
    section = {"zero_optimization": zero, "wall_clock_breakdown": True}
    config = deepspeed_config.configure(make(section, zero_stage=2), 1, "fp32")
    assert config["zero_optimization"] == zero
    assert config["wall_clock_breakdown"] is True
    assert deepspeed_config.configure(make({"train_batch_size": 32}), 3, "fp32").get("train_batch_size") is None


def test_fp16_can_be_tuned() -> None:
    config = deepspeed_config.configure(make({"fp16": {"initial_scale_power": 12}}), 1, "fp16")
    assert config["fp16"] == {"enabled": True, "loss_scale": 0, "initial_scale_power": 12}


@pytest.mark.parametrize(
    ("section", "key", "owner"),
    [
        ({"train_batch_size": 64}, "train_batch_size", "training.batch_size"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps", "training.micro_batch_size"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage", "training.zero_stage"),
        ({"bf16": {"enabled": True}}, "bf16.enabled", "training.precision"),
        ({"bfloat16": {"enabled": True}}, "bfloat16.enabled", "training.precision"),
        ({"optimizer": {"type": "Adam"}}, "optimizer", "training.learning_rate"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler", "training.lr_scheduler_type and training.warmup_ratio"),
    ],
)
def test_a_contradiction_names_both_keys(section: dict[str, Any], key: str, owner: str) -> None:
    with pytest.raises(InputError, match=rf"deepspeed\.{key}: found .*; {owner}.* decides that"):
        deepspeed_config.configure(make(section), 1, "fp32")


def test_a_section_is_no_switch() -> None:
    with pytest.raises(InputError, match=r"deepspeed\.zero_optimization: found False; a section of keys is expected"):
        deepspeed_config.configure(make({"zero_optimization": False}), 1, "fp32")


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"compile": {"deepcompile": True}}, "deepspeed.compile: has no effect here: models are not compiled"),
        (
            {"activation_checkpointing": {"cpu_checkpointing": True}},
            "deepspeed.activation_checkpointing: has no effect here: set training.gradient_checkpointing instead",
        ),
    ],
)
def test_a_section_that_deepspeed_would_ignore_is_refused(section: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        deepspeed_config.configure(make(section), 1, "bf16")


def test_all_contradictions_are_told() -> None:
    with pytest.raises(InputError) as caught:
        deepspeed_config.configure(make({"train_batch_size": 64, "gradient_clipping": 2}), 1, "fp32")
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("wanted", "on_cpu", "computes_bf16", "chosen"),
    [
        ("auto", True, True, "bf16"), ("auto", True, False, "fp32"), ("auto", False, True, "bf16"),
        ("auto", False, False, "fp16"), ("fp32", False, True, "fp32"), ("bf16", True, False, "bf16"),
        ("fp16", False, True, "fp16"),
    ],
)  # fmt: skip
def test_precision(wanted: str, on_cpu: bool, computes_bf16: bool, chosen: str) -> None:
    assert deepspeed_config.choose_precision(wanted, on_cpu, computes_bf16) == chosen


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        deepspeed_config.choose_precision("fp16", on_cpu=True, computes_bf16=True)
