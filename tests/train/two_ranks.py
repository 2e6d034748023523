"""Executed by each of two ranks: the runs that test_two_ranks.py checks, all in one launch to save time."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertline.tasks.tokens import Tokenizer
from bertline.train import evaluation, metrics, ranks
from bertline.train.loop import Trainer
from tests.train.conftest import train_here


def forbidden(*_: Any) -> Any:
    """Fail: only rank 0 may do this."""
    raise AssertionError("a second rank tokenizes, or reads what the first writes")


def keep_answers(path: Path, trainer: Trainer) -> None:
    """Save the teacher's outputs, in the order of the texts."""
    if ranks.is_first():
        np.save(path, np.stack(list(trainer.batches._split.teacher or ())))


def main(recipe: Path, folder: Path, bundle: Path) -> None:
    """Train with each ZeRO stage, with a run and a bundle as teacher, stopped and resumed, and in bf16."""
    ranks.start()
    evaluation.TOGETHER = 2  # of the four rounds of a split
    encode = Tokenizer.encode
    if not ranks.is_first():
        Tokenizer.encode = forbidden  # type: ignore[assignment,method-assign]
        metrics.best = forbidden  # type: ignore[assignment]  # rank 0 may not have written its last line yet
        metrics.better = lambda *_: False  # as if rounding differed there; rank 0 decides for all
    parted = "deepspeed.zero_optimization={stage3_param_persistence_threshold: 0}"  # partition small weights, too
    for stage in (0, 2, 3):
        sets = [f"training.zero_stage={stage}", "training.micro_batch_size=3", "training.best=loss"]
        train_here(recipe, folder / f"zero-{stage}", [*sets, parted] if stage == 3 else sets)
    Tokenizer.encode = encode  # type: ignore[method-assign]  # every rank checks a bundle's golden texts
    for kind, teacher in (("run", folder / "zero-0"), ("bundle", bundle)):
        look = partial(keep_answers, folder / f"{kind}.npy")
        train_here(recipe, folder / f"taught-by-{kind}", [f"teacher={teacher}"], look=look)
    sets = ["training.zero_stage=3", parted, "training.dropout=0.1", "training.save_steps=4", "training.eval_steps=1"]
    train_here(recipe, folder / "whole", sets)
    try:
        train_here(recipe, folder / "stopped", sets, stop=7)
    except KeyboardInterrupt:
        train_here(recipe, folder / "stopped", sets, resume=True)
    train_here(recipe, folder / "in-bf16", ["training.zero_stage=3", parted, "training.precision=bf16"])
    ranks.stop()
