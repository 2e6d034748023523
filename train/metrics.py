"""metrics.jsonl: a line for each logged step and each evaluation, flushed as it happens.

    {"step": 10, "epoch": 0.16, "loss": 0.69, "learning_rate": 5e-05, "tokens_per_second": 4012.5}
    {"step": 63, "epoch": 1.0, "validation": {"accuracy": 0.83, …, "loss": 0.41}, "decision": {…}}

The loss is that of the step's own global batch. The file is also what a resumed run knows its best evaluation by.
"""

import json
import os
from pathlib import Path
from typing import Any

from bertline.artifacts import files
from bertline.artifacts.recipe_schema import LOSSES
from bertline.artifacts.run import Best
from bertline.artifacts.task import Decision


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line; that of an evaluation is on the disk before any checkpoint that comes after it."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
        if "validation" in line:
            stream.flush()
            os.fsync(stream.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All lines; one that the run was stopped in the midst of is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def truncate(path: Path, step: int, evaluated: int) -> None:
    """Forget what came after `step`, and after the evaluation at step `evaluated`: a resumed run does it again."""
    files.remove_left(path)
    kept = [line for line in read(path) if line["step"] <= (evaluated if "validation" in line else step)]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def best(path: Path, metric: str) -> tuple[Best, dict[str, Any]] | None:
    """The evaluation best by `metric`, the first of equals, and all its scores; None where there is none yet."""
    found = None
    for line in read(path):
        scores = line.get("validation")
        if scores and (found is None or better(scores[metric], found[0].value, metric)):
            decision = Decision.model_validate(line["decision"])
            found = Best(step=line["step"], value=scores[metric], decision=decision), scores
    return found


def better(value: float, than: float, metric: str) -> bool:
    """Whether a value of a metric beats another: a smaller loss, more of anything else."""
    return value < than if metric in LOSSES else value > than
