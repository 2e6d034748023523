"""DeepSpeed's engine: checking its configuration, wrapping a model in it, and loading a checkpoint into it."""

import copy
import difflib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.comm as dist
from deepspeed.runtime.config import DeepSpeedConfig
from pydantic import ValidationError

from bertline.artifacts.errors import InputError, one_line
from bertline.artifacts.recipe_schema import Recipe
from bertline.models import imports
from bertline.tasks.task import Task
from bertline.train import checkpoints, deepspeed_config, elastic, model, ranks
from bertline.train.checkpoints import Found
from bertline.train.deepspeed_config import Precision


def check(config: dict[str, Any]) -> None:
    """Let DeepSpeed parse its configuration before any data is read.

    Raises:
        InputError: a key that its section does not know or that looks misspelled, or an invalid value; all are listed.
    """
    read = _Recording(copy.deepcopy(config))
    try:
        DeepSpeedConfig(read)
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["input"], fault["msg"]) for fault in error.errors()]
        told = [f"deepspeed: {key}: found {found!r:.60}; {error.title}: {why}" for key, found, why in faults]
        raise InputError(*told) from None
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:  # of any type: DeepSpeed uses some values unchecked
        raise InputError(f"deepspeed: {one_line(error)}") from error
    alike = {key: difflib.get_close_matches(key, read.asked, n=1, cutoff=0.8) for key in sorted({*config} - read.asked)}
    told = [f"deepspeed: {key}: not a key; did you mean {known[0]}?" for key, known in alike.items() if known]
    if told:
        raise InputError(*told)


class _Recording(dict[str, Any]):
    """A configuration that records which keys are looked up: DeepSpeed ignores unknown keys and has no list of them.

    Some keys are looked up only where they are used, so a key that was never looked up may still be valid.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default."""
        self.asked.add(key)
        return super().get(key, default)


def make(
    recipe: Recipe, folder: Path, task: Task, precision: Precision, steps: int, besides: dict[str, Any] | None = None
) -> Any:
    """DeepSpeed's engine around a model, its optimizer and its schedule; `besides` is added to the configuration."""
    config = deepspeed_config.configure(recipe, dist.get_world_size(), precision)
    loaded = model.load(folder, task, recipe.training)
    optimizer = model.optimizer(loaded, recipe.training)
    schedule = model.schedule(optimizer, recipe.training, steps)
    config |= besides or {}
    with imports.uncompiled():  # DeepSpeed always imports its Muon optimizer, which would be compiled
        engine, *_ = deepspeed.initialize(model=loaded, optimizer=optimizer, lr_scheduler=schedule, config=config)
    return engine


def started(make: Callable[..., Any], found: Found | None, zero_stage: int) -> Any:
    """An engine at the first step, or at a checkpoint that any number of ranks may have written."""
    if found is None:
        return make()
    checkpoint, then = found
    if then.ranks != dist.get_world_size() and zero_stage > 0:
        return resumed_elastically(make, checkpoint)
    engine = make()
    checkpoints.load(engine, checkpoint)
    return engine


def resumed_elastically(make: Callable[..., Any], checkpoint: Path) -> Any:
    """An engine at a checkpoint that a different number of ranks wrote."""
    converted = ranks.from_first(lambda: elastic.convert(checkpoint))
    engine = make(besides=elastic.CONFIG)
    optimizer = engine.optimizer.optimizer
    groups = elastic.settings(optimizer)
    with elastic.padding_alone(engine.optimizer):
        checkpoints.load(engine, converted)
    elastic.repair(optimizer, groups, engine.lr_scheduler.get_last_lr())
    ranks.barrier()
    if ranks.is_first():
        shutil.rmtree(converted)
    return engine
