"""The job of one process of the benchmark and its report, exchanged with the starting process as plain files.

Times are in seconds on the monotonic clock, which all processes of a machine share.
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
"""For each step: real tokens, and all tokens computed, with padding."""
WARM_UP: dict[Device, int] = {"cpu": 3, "cuda": 30}
"""Steps that are not measured, because they allocate memory and, on a GPU, load the kernels for every new length."""
STEPS: dict[Device, int] = {"cpu": 32, "cuda": 330}
"""Steps of a run by default; a GPU takes milliseconds for each."""


class Job(BaseModel):
    """A run of one system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    recipe: Path
    """A resolved recipe: gives the model, precision, batch size, learning rate and length."""
    work: Path
    """The folder with the data that `prepare` wrote."""
    folder: Path
    """The folder for the reports of this run's processes."""
    device: Device
    steps: int
    launched: float
    """When it was started."""

    def save(self) -> Path:
        """Write the job into its folder, for the process that will do it."""
        path = self.folder / "job.json"
        files.write_text(path, self.model_dump_json())
        return path

    def told(self) -> "list[Told]":
        """The reports of its ranks, in order."""
        return [Told.model_validate_json(path.read_bytes()) for path in sorted(self.folder.glob("rank-*.json"))]


class Told(BaseModel):
    """The report of one process."""

    ends: list[float]
    """When each step ended."""
    peak_bytes: int
    """Peak resident memory, or peak GPU memory if there is a GPU."""
    counts: Counts | None
    """None if the run uses the batches whose tokens `prepare` counted."""


def read(path: Path) -> Job:
    """Read the job that this process was started for."""
    return Job.model_validate_json(path.read_bytes())


class Clock:
    """Records when the steps of this process end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ends: list[float] = []

    def tick(self) -> None:
        """Record the end of a step, waiting for the GPU only at the steps whose times are used."""
        import torch

        done = len(self._ends) + 1
        if self._job.device == "cuda" and done in (1, WARM_UP["cuda"], self._job.steps):
            torch.cuda.synchronize()
        self._ends.append(time.monotonic())

    def tell(self, counts: Sequence[tuple[int, int]] | None, rank: int = 0) -> None:
        """Write the report."""
        told = Told(ends=self._ends, peak_bytes=self._peak_bytes(), counts=None if counts is None else list(counts))
        files.write_text(self._job.folder / f"rank-{rank}.json", told.model_dump_json())

    def _peak_bytes(self) -> int:
        if self._job.device == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated())
        from bertline.bench.worker import peak_rss_bytes  # imports ONNX Runtime, so only after the steps are timed

        return peak_rss_bytes()
