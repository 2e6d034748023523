"""One system that is not bertline, in a process of its own.

python -m bertline.benchmarks.train.worker JOB
"""

import sys
from pathlib import Path

from bertline.benchmarks.train import job as jobs


def main(path: Path) -> None:
    """Do a job: take its steps and tell of them."""
    job = jobs.read(path)
    clock = jobs.Clock(job)
    if job.kind in ("trainer", "grouped"):
        from bertline.benchmarks.train import trainer

        counts = trainer.train(job, clock)
    else:
        from bertline.benchmarks.train import plain

        counts = plain.bare(job, clock) if job.kind == "bare" else plain.tutorial(job, clock)
    clock.tell(counts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
