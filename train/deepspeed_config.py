"""DeepSpeed's configuration as a pure function of a recipe and the number of ranks.

The recipe's `deepspeed` section is merged in last, for settings that the recipe has no key for (offloading, bucket
sizes). A setting that does have a key in the recipe must be set there.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import MONITORS, Recipe, Training

Precision = Literal["fp32", "bf16", "fp16"]

OWNED = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "managed_gradient_accumulation": "training.micro_batch_size",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "training.learning_rate and training.weight_decay",
    "scheduler": "training.lr_scheduler_type and training.warmup_ratio",
    "zero_optimization.stage": "training.zero_stage",
    "bf16.enabled": "training.precision",
    "bfloat16.enabled": "training.precision",
    "fp16.enabled": "training.precision",
    "torch_autocast.enabled": "training.precision",
    "torch_autocast.dtype": "training.precision",
    "amp": "training.precision",
}
"""DeepSpeed's keys that the recipe decides, each with the recipe's keys for it."""
IDLE = {
    "compile": "models are not compiled",
    "activation_checkpointing": "set training.gradient_checkpointing instead",
}
"""Sections that DeepSpeed reads and then leaves to calls that are not made here: `engine.compile()`, and its own
`checkpointing.checkpoint`, in whose place transformers uses torch's.
"""
REDUCE_BUCKET_SIZE = 50_000_000
"""Gradient elements that ZeRO reduces together. Each dtype has a buffer of this size: DeepSpeed's default, 5e8, takes
2 GB in fp32, which an encoder does not fill.
"""


def micro_batch_size(training: Training, ranks: int) -> int:
    """The largest number of examples that a rank computes at once."""
    share = math.ceil(training.batch_size / ranks)
    return min(share, training.micro_batch_size or share)


def accumulation_steps(training: Training, ranks: int) -> int:
    """The number of micro-batches that a rank computes for one optimizer step."""
    return math.ceil(math.ceil(training.batch_size / ranks) / micro_batch_size(training, ranks))


def choose_precision(wanted: str, on_cpu: bool, computes_bf16: bool) -> Precision:
    """What `training.precision` means on a device: auto is bf16 where native, else fp16 on GPUs and fp32 on CPUs.

    Raises:
        InputError: fp16 on a CPU.
    """
    if wanted == "fp16" and on_cpu:
        raise InputError("training.precision: fp16 needs a GPU; on CPU ranks use auto, bf16 or fp32")
    if wanted == "fp32" or (wanted == "auto" and on_cpu and not computes_bf16):
        return "fp32"
    return "bf16" if wanted == "bf16" or (wanted == "auto" and computes_bf16) else "fp16"


def staged(recipe: Recipe, precision: Precision) -> Recipe:
    """The recipe, with ZeRO 1 instead of ZeRO 0 in fp16, where ZeRO 0 is broken.

    There DeepSpeed 0.19.8 divides gradients by a loss scale that the loss was not multiplied by, and runs the optimizer
    once before the first step, so hardly anything is learned (github.com/deepspeedai/DeepSpeed/pull/8393).
    """
    if precision == "fp16" and recipe.training.zero_stage == 0:
        return recipe.model_copy(update={"training": recipe.training.model_copy(update={"zero_stage": 1})})
    return recipe


def configure(recipe: Recipe, ranks: int, precision: Precision) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`.

    Raises:
        InputError: the `deepspeed` section contradicts the rest of the recipe, each key is named with its counterpart;
            or it has a section without effect.
    """
    training = recipe.training
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size(training, ranks),
        "gradient_accumulation_steps": accumulation_steps(training, ranks),
        "gradient_clipping": training.max_grad_norm,
        # where the optimizer is offloaded, keep torch's AdamW: DeepSpeed's own would have to be compiled
        "zero_force_ds_cpu_optimizer": False,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the GPU twice a step
        "zero_optimization": {"stage": training.zero_stage, "reduce_bucket_size": REDUCE_BUCKET_SIZE},
        **_precision(precision),
    }
    own = {**config, "train_batch_size": training.batch_size}
    idle = [f"deepspeed.{name}: has no effect here: {why}" for name, why in IDLE.items() if name in recipe.deepspeed]
    faults = [*idle, *_contradictions(recipe.deepspeed, own)]
    if faults:
        raise InputError(*faults)
    return _merged(config, {name: value for name, value in recipe.deepspeed.items() if name not in MONITORS})


def _precision(precision: Precision) -> dict[str, Any]:
    if precision == "bf16":
        # With "bf16" the weights themselves would be bfloat16, and rounding would swallow small updates; autocast keeps
        # them in fp32 and multiplies in bfloat16.
        return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    if precision == "fp16":
        return {"fp16": {"enabled": True, "loss_scale": 0}}  # 0: dynamic
    return {}


def _contradictions(section: dict[str, Any], own: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if key in OWNED:
            if value != own.get(name):
                yield f"deepspeed.{key}: found {value!r}; {OWNED[key]} decides that: set it there and leave this out"
        elif isinstance(own.get(name), dict) and not isinstance(value, dict):
            yield f"deepspeed.{key}: found {value!r}; a section of keys is expected"
        elif isinstance(value, dict):
            inner = own.get(name, {})
            yield from _contradictions(value, inner if isinstance(inner, dict) else {}, f"{key}.")


def _merged(config: dict[str, Any], section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`config` with `section` merged over it at every depth, without the OWNED keys, on which both agree."""
    merged = dict(config)
    for name, value in section.items():
        key = f"{prefix}{name}"
        if key in OWNED:
            continue
        if isinstance(value, dict):
            inner = merged.get(name)
            value = _merged(inner if isinstance(inner, dict) else {}, value, f"{key}.")
        merged[name] = value
    return merged
