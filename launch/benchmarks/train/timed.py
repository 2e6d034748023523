"""What a rank executes in the place of `bertline.train`: the same, with a watch held to its steps.

    … RECIPE --run DIR JOB

After the last step that is to be measured the run is asked to stop, as a scheduler would: it takes one more step, saves
and ends with the exit code of that.
"""

import os
import sys
from pathlib import Path

from bertline.launch.benchmarks.train import job as jobs
from bertline.train import preemption, progress
from bertline.train.__main__ import main


def watch(job: jobs.Job) -> None:
    """Let the runs of this process note their steps."""
    clock = jobs.Clock(job)

    class Timed(progress.Progress):
        def step(self, step: int, loss: float, tokens_per_second: float, log: bool) -> None:
            super().step(step, loss, tokens_per_second, log)
            if step <= job.steps:
                clock.tick()
            if step == job.steps:
                clock.tell(counts=None, rank=int(os.environ["RANK"]))
                preemption.asked.set()

    progress.Progress = Timed  # type: ignore[misc]


if __name__ == "__main__":
    watch(jobs.read(Path(sys.argv.pop())))
    sys.exit(main())
