"""Executed by each of two ranks: runs that one rank resumes, and runs of one rank that two ranks resume.

What a rank holds right after loading is compared with the checkpoint as DeepSpeed itself reads it.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from bertline.train import checkpoints, elastic, ranks
from bertline.train.loop import Trainer
from tests.train.conftest import train_here

CHANGES = ("two-one", "two-one-two", "one-two")
RATE, DECAY, LAYERS, WARMUP, STEPS = 1e-3, 0.8, 2, 2, 12
SETS = [
    "training.freeze.embeddings=true", f"training.layer_decay={DECAY}", "training.save_steps=4", "training.best=loss",
    f"training.learning_rate={RATE}",
]  # fmt: skip


def sets(stage: int) -> list[str]:
    """Overrides for a ZeRO stage, on any number of ranks: several parameter groups, and frozen parameters."""
    return [*SETS, f"training.zero_stage={stage}"]


def check_loaded(trainer: Trainer, step: int) -> None:
    """Check that all weights equal the checkpoint's, and that step counts and group settings are right."""
    assert trainer.state.step == step
    engine = trainer.engine
    saved = weights_saved(trainer.run.checkpoints / f"step-{step}", trainer.recipe.training.zero_stage)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        loaded = {name: tensor.clone() for name, tensor in engine.module.state_dict().items()}
    assert loaded.keys() == saved.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, saved[name]), name
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    steps = [state["step"] for state in optimizer.state.values() if state]
    assert {float(count) for count in steps} == {float(step)}
    assert len({count.data_ptr() for count in steps}) == len(steps), "parameters share a count"
    check_groups(optimizer.param_groups, (STEPS - step) / (STEPS - WARMUP))


def check_groups(groups: list[dict[str, Any]], share: float) -> None:
    """Check each group's settings: the head, then layer by layer, first what decays, then what does not."""
    found = [(group["lr"], group["weight_decay"]) for group in groups]
    rates = [RATE * share * DECAY**depth for depth in range(LAYERS + 1)]
    assert found == [(pytest.approx(rate), decay) for rate in rates for decay in (0.01, 0.0)]


def weights_saved(checkpoint: Path, stage: int) -> dict[str, torch.Tensor]:
    """The weights as DeepSpeed reads them; below ZeRO 3 frozen ones are stored only with the module."""
    module: dict[str, torch.Tensor] = {}
    if stage < 3:
        module = torch.load(checkpoint / "deepspeed/mp_rank_00_model_states.pt", weights_only=False)["module"]
    if stage == 0:
        return module
    return {**module, **get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), "deepspeed")}


def main(what: str, recipe: Path, folder: Path, stage: int) -> None:
    """Start runs on two ranks and stop them after a checkpoint, or finish those that one rank ran last."""
    ranks.start()
    if what == "begin":
        for change in ("two-one", "two-one-two"):
            with suppress(KeyboardInterrupt):
                train_here(recipe, folder / change, sets(stage), stop=6)
    else:
        for change, step in (("two-one-two", 8), ("one-two", 4)):
            look = partial(check_loaded, step=step)
            train_here(recipe, folder / change, sets(stage), resume=True, look=look)
    ranks.stop()


def load_padding(folder: Path) -> None:
    """Load a group of two numbers that one rank holds entirely, so the other rank loads only padding."""
    ranks.start()
    before, step = make_engine(), torch.ones(1, 3)
    for _ in range(2):
        before.backward(before(step).sum())
        before.step()
    before.save_checkpoint(str(folder / "step-2"), checkpoints.TAG, checkpoints.UNIVERSAL, save_latest=False)
    converted = ranks.from_first(lambda: elastic.convert(folder / "step-2"))
    after = make_engine(**elastic.CONFIG)
    with elastic.padding_alone(after.optimizer):
        checkpoints.load(after, converted)
    for engine in (before, after):
        engine.backward(engine(step).sum())
        engine.step()
    for one, other in zip(before.module.parameters(), after.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    ranks.stop()


def make_engine(**besides: Any) -> Any:
    """DeepSpeed's engine around a layer whose bias is a group of its own."""
    layer = torch.nn.Linear(3, 2)
    groups: list[dict[str, Any]] = [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    config = {"train_batch_size": 2, "zero_optimization": {"stage": 1}, **besides}
    return deepspeed.initialize(model=layer, optimizer=optimizer, lr_scheduler=schedule, config=config)[0]
