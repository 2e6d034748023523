"""Runs whose weights are kept, whole and to the bit, at the moment of each checkpoint; two ranks execute `main`."""

from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors.torch import save_file

from bertline.train import ranks
from bertline.train.loop import Trainer
from tests.train.conftest import train_here

SETS = ["training.freeze.embeddings=true", "training.layer_decay=0.8", "training.epochs=1", "training.save_steps=4"]
"""Settings with frozen parameters and six groups of trained ones."""
LAYOUT = ["deepspeed.zero_optimization.round_robin_gradients=true"]
"""Parameters in another order than the model's; ZeRO 2 here has it."""


def train(recipe: Path, folder: Path, stage: int) -> None:
    """`folder`/run, its weights at step N in `folder`/step-N.safetensors, and what DeepSpeed alone leaves."""

    def look(trainer: Trainer) -> None:
        engine = trainer.engine
        save = engine.save_checkpoint

        def keep_and_save(place: str, **options: Any) -> None:
            keep(engine, folder / f"step-{engine.global_steps}.safetensors")
            save(str(folder / "output"))
            save(place, **options)

        engine.save_checkpoint = keep_and_save

    sets = [*SETS, f"training.zero_stage={stage}", *(LAYOUT if stage == 2 else [])]
    train_here(recipe, folder / "run", sets, look=look)


def keep(engine: Any, path: Path) -> None:
    """Write the weights that all ranks have together, in their own precision."""
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        weights = {name: tensor.detach().clone() for name, tensor in engine.module.state_dict().items()}
    if ranks.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path)


def main(recipe: Path, folder: Path) -> None:
    """Two ranks: each stage that cuts something."""
    ranks.start()
    torch.set_num_threads(1)
    for stage in (1, 2, 3):
        train(recipe, folder / f"two-{stage}", stage)
    ranks.stop()
