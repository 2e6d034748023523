"""What one process of the measurement is to do, and what it tells: plain files between it and the one that started it.

Times are of the monotonic clock, which all processes of a machine share.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bertline.artifacts import files

Kind = Literal["bertline", "bare", "trainer", "grouped", "tutorial"]
Device = Literal["cpu", "cuda"]
Counts = list[tuple[int, int]]
"""Of each step: real tokens, and tokens computed, which are these and padding."""
WARM_UP = 3
"""Steps that are not counted: they allocate."""


class Job(BaseModel):
    """A run of one system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    recipe: Path
    """Resolved: model, precision, batch size, learning rate and length are what it says."""
    work: Path
    """Where `prepare` has put the data."""
    folder: Path
    """Of this run: what its processes tell."""
    device: Device
    steps: int
    launched: float
    """Seconds of the monotonic clock when it was started."""

    def save(self) -> Path:
        """Write it into its folder, for the process that it is for."""
        path = self.folder / "job.json"
        files.write_text(path, self.model_dump_json())
        return path

    def told(self) -> "list[Told]":
        """What its ranks have told, in their order."""
        return [Told.model_validate_json(path.read_bytes()) for path in sorted(self.folder.glob("rank-*.json"))]


class Told(BaseModel):
    """What one process tells of its steps."""

    ends: list[float]
    """Seconds of the monotonic clock when each step was done."""
    peak_bytes: int
    """Of resident memory; of the GPU's where there is one."""
    counts: Counts | None
    """None: the run takes the batches that `prepare` has counted."""


def read(path: Path) -> Job:
    """The job that this process was started for."""
    return Job.model_validate_json(path.read_bytes())


class Clock:
    """Notes when the steps of this process end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ends: list[float] = []

    def tick(self) -> None:
        """A step was done. A GPU is waited for only at the steps that times are taken between."""
        import torch

        done = len(self._ends) + 1
        if self._job.device == "cuda" and done in (1, WARM_UP, self._job.steps):
            torch.cuda.synchronize()
        self._ends.append(time.monotonic())

    def tell(self, counts: Sequence[tuple[int, int]] | None, rank: int = 0) -> None:
        """Write what was noted."""
        told = Told(ends=self._ends, peak_bytes=self._peak_bytes(), counts=None if counts is None else list(counts))
        files.write_text(self._job.folder / f"rank-{rank}.json", told.model_dump_json())

    def _peak_bytes(self) -> int:
        if self._job.device == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated())
        from bertline.bench.worker import peak_rss_bytes  # it imports ONNX Runtime: not before the steps are timed

        return peak_rss_bytes()
