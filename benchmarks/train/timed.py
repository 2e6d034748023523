"""What a rank executes in the place of `bertline.train`: the same, with a watch held to its steps.

    … RECIPE --run DIR JOB

After the last step that is to be measured the run is asked to stop, as a scheduler would: it takes one more step, on a
GPU two, saves and ends with the exit code of that.
"""

import os
import sys
from pathlib import Path

import torch

from bertline.benchmarks.train import job as jobs
from bertline.train import loop, preemption, setup
from bertline.train.__main__ import main
from bertline.train.data.batches import Batch


def watch(job: jobs.Job) -> None:
    """Let the runs of this process note their steps."""

    class Timed(loop.Trainer):
        clock = jobs.Clock(job)

        def train(self) -> None:
            if job.device == "cuda":
                torch.cuda.reset_peak_memory_stats()  # how much fits was tried before
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
    watch(jobs.read(Path(sys.argv.pop())))
    sys.exit(main())
