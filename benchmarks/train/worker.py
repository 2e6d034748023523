"""Runs one of the systems other than bertline, in its own process.

python -m bertline.benchmarks.train.worker JOB
"""

import sys
from pathlib import Path

from bertline.benchmarks.train import job as jobs


def main(path: Path) -> None:
    """Do a job: take its steps and write the report."""
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
