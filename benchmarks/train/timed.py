"""What a rank executes instead of `bertline.train`: the same, but with its steps timed.

    … RECIPE --run DIR JOB

After the last step to measure, with which an epoch ends, the run is asked to stop as a scheduler would do: it breaks
off the evaluation that follows, saves a checkpoint and ends with the exit code of a preempted run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bertline.benchmarks.train import job as jobs
from bertline.train.__main__ import ENVIRONMENT, main

if TYPE_CHECKING:
    from bertline.train.data.batches import Batch


def watch(job: jobs.Job) -> None:
    """Make the runs of this process record their steps."""
    import torch

    from bertline.train import loop, preemption, setup

    class Timed(loop.Trainer):
        clock = jobs.Clock(job)

        def train(self) -> None:
            if job.device == "cuda":
                torch.cuda.reset_peak_memory_stats()  # exclude the search for the micro-batch size that fits
            super().train()

        def step(self, batch: Batch) -> None:
            super().step(batch)
            if self.state.step <= job.steps:
                self.clock.tick()
            if self.state.step == job.steps:
                self.clock.tell(counts=None, rank=int(os.environ["RANK"]))
                preemption.asked.set()

    setup.Trainer = Timed  # type: ignore[attr-defined]


if __name__ == "__main__":
    for name, value in ENVIRONMENT.items():  # torch, imported next, reads it on import
        os.environ.setdefault(name, value)
    watch(jobs.read(Path(sys.argv.pop())))
    sys.exit(main())
