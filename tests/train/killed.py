"""Executed by each forked rank: a run as by `python -m bertline.train`, which waits at a named point to be killed.

A rank that reaches the point writes a mark that says where it is, and waits there until it is killed or, if another
rank was the victim, told to continue. So a kill lands where it was meant to, and the mark proves it. The program knows
nothing of this: the points are torch hooks and patched functions that the program calls through their module.
"""

import importlib
import io
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts.checkpoint import INDEX
from bertline.artifacts.run import RunFolder
from bertline.train import __main__ as program
from bertline.train import metrics

IMPORTED = (
    "bertline.train.setup", "bertline.train.finish", "transformers.models.bert.modeling_bert",
    "transformers.integrations.deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer",
)  # fmt: skip
"""Modules that a rank would import later, imported once for all forked ranks."""
for name in IMPORTED:
    importlib.import_module(name)

ALL, FIRST = (0, 1), (0,)
PLACES = {
    "begin": FIRST,  # the run has its recipe and half of its splits
    "forward": ALL,  # of the last micro-batch: the gradients of the earlier ones are there
    "backward": ALL,  # the last layer's gradients are there, the first one's are not
    "update": ALL,  # this rank's share of the weights is updated but not yet sent to the others
    "model": FIRST,  # the new weights of best/ are written beside it, the tokenizer is not
    "swap": FIRST,  # the old best/ is moved away, the new one does not have its name yet
    "best": FIRST,  # best/ is there, its line in metrics.jsonl is half-written
    "weights": FIRST,  # half of the weights file is written
    "optimizer": ALL,  # the same for the optimizer's file, which ZeRO 0 does not have
    "index": FIRST,  # all files are written, the index is not
    "rename": FIRST,  # the index is written, the folder does not have its name yet
    "old": FIRST,  # the folder has its name, the old ones are still there
    "removal": FIRST,  # some files of an old one are removed
    "summary": FIRST,  # only run.json is missing
}
"""The points, and which ranks reach each of them."""
STEP = ("forward", "backward", "update")
"""The points within a step."""


@dataclass
class Stop:
    """Where a rank is to wait: at a point, the first time that it reaches it in the given step or later."""

    point: str
    step: int
    marks: Path
    engine: Any = None

    def is_at(self, point: str) -> bool:
        """Whether this is the place to wait."""
        if self.engine is None:
            return False
        return point == self.point and self.now() >= self.step and not (self.marks / "go").exists()

    def now(self) -> int:
        """The current step within a step, else the last one done."""
        return int(self.engine.global_steps) + (self.point in STEP)

    def stand(self, point: str) -> None:
        """If this is the place, write the mark and wait."""
        if self.is_at(point):
            mark = self.marks / f"rank-{os.environ['RANK']}"
            mark.with_suffix(".new").write_text(f"{point} {self.now()}")
            mark.with_suffix(".new").rename(mark)
            while not (self.marks / "go").exists():
                time.sleep(0.01)

    def set(self) -> None:
        """Install the hooks of all points."""
        made = deepspeed.initialize

        def initialize(**arguments: Any) -> Any:
            self.engine, *others = made(**arguments)
            self.engine.module.register_forward_pre_hook(self.forward)
            layer = self.engine.module.base_model.encoder.layer[0]
            layer.register_full_backward_hook(lambda *_: self.stand("backward"))
            return self.engine, *others

        deepspeed.initialize = initialize
        register_optimizer_step_post_hook(lambda *_: self.stand("update"))
        before(files, "new_file", self.new_file)
        before(metrics, "append", self.append)
        before(torch, "save", self.save)
        before(files, "write_text", self.write_text)
        before(files, "publish", self.publish)
        before(shutil, "rmtree", self.rmtree)
        before(shutil, "copytree", self.copytree)
        before(Path, "rename", self.rename)

    def new_file(self, path: Path) -> None:
        if path.parts[-2:] == ("splits", "test.jsonl"):
            self.stand("begin")

    def forward(self, module: torch.nn.Module, *_: Any) -> None:
        if module.training and self.engine.is_gradient_accumulation_boundary():
            self.stand("forward")

    def append(self, path: Path, line: dict[str, Any]) -> None:
        if "validation" in line and self.is_at("best"):
            whole = path.stat().st_size
            with path.open("a") as stream:
                stream.write('{"step": 6, "epo')
            self.stand("best")
            os.truncate(path, whole)  # another rank was the victim

    def save(self, content: Any, target: Any, *_: Any, **__: Any) -> None:
        point = "optimizer" if "optim_states" in str(target) else "weights"
        if isinstance(target, (str, Path)) and self.is_at(point):
            whole = io.BytesIO()
            torch.save(content, whole)
            Path(target).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
            self.stand(point)

    def write_text(self, path: Path, content: str) -> None:
        points = {INDEX: "index", "run.json": "summary"}
        if path.name in points:
            self.stand(points[path.name])

    def publish(self, folder: Path, path: Path) -> None:
        if path.parent.name == "checkpoints":
            self.stand("rename")

    def copytree(self, _: Path, target: Path, **__: Any) -> None:
        if Path(target).parent.name.startswith(".best."):
            self.stand("model")

    def rename(self, path: Path, target: Path) -> None:
        if path.parent.name.startswith(".best.") and target.name == "best":
            self.stand("swap")

    def rmtree(self, path: Any, *_: Any, **__: Any) -> None:
        """Once a checkpoint has its name, the next removal is that of an old one."""
        if not (isinstance(path, Path) and path.parent.name == "checkpoints"):
            return
        if (path.parent / f"step-{self.now()}").exists():
            self.stand("old")
            if self.is_at("removal"):
                there = [file for file in sorted(path.rglob("*")) if file.is_file()]
                for file in random.Random(self.step).sample(there, len(there) // 2):
                    file.unlink()
                self.stand("removal")


def before(module: Any, name: str, look: Callable[..., None]) -> None:
    """Call `look` with the arguments of a module's function before each call of that function."""
    function = getattr(module, name)

    def looked(*arguments: Any, **named: Any) -> Any:
        look(*arguments, **named)
        return function(*arguments, **named)

    setattr(module, name, looked)


def live(recipe: Path, sets: Sequence[str], folder: Path, stop: Stop | None) -> int:
    """Start a run, or resume it; returns the exit code."""
    if stop is not None:
        stop.set()
    run = RunFolder(folder)
    return program.train(recipes.load(recipe, list(sets)), run, resume=run.recipe.exists())
