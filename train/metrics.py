"""metrics.jsonl: a line for each logged step and each evaluation, written as it happens.

    {"step": 10, "epoch": 0.16, "loss": 0.69, "learning_rate": 5e-05, "tokens_per_second": 4012.5}
    {"step": 63, "epoch": 1.0, "validation": {"accuracy": 0.83, …, "loss": 0.41}, "decision": {…}}

`loss` is that of the step's own global batch. A resumed run finds its best evaluation in this file.
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
    """Append a line; an evaluation is synced to disk, so that it is there before any later checkpoint."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
        if "validation" in line:
            stream.flush()
            os.fsync(stream.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines; one that a killed run left half-written is skipped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def truncate(path: Path, step: int, evaluated: int) -> None:
    """Drop steps after `step` and evaluations after step `evaluated`, which a resumed run repeats."""
    files.remove_left(path)
    kept = [line for line in read(path) if line["step"] <= (evaluated if "validation" in line else step)]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def best(path: Path, metric: str) -> tuple[Best, dict[str, Any]] | None:
    """The best evaluation by `metric` (the first among equals) and all its scores, or None if there is none yet."""
    found = None
    for line in read(path):
        scores = line.get("validation")
        if scores and (found is None or better(scores[metric], found[0].value, metric)):
            decision = Decision.model_validate(line["decision"])
            found = Best(step=line["step"], value=scores[metric], decision=decision), scores
    return found


def better(value: float, than: float, metric: str) -> bool:
    """Whether a value of a metric beats another: lower for losses, higher for all other metrics."""
    return value < than if metric in LOSSES else value > than
