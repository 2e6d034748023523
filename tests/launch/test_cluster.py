"""The Slurm job on one machine: stand-ins for srun and scontrol start its ranks as two nodes would."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bertline.artifacts.run import RunFolder, read_summary
from tests.conftest import make_model
from tests.train.conftest import losses, write_recipe

SCRIPT = Path(__file__).parents[2] / "launch" / "cluster" / "slurm.sbatch"
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=0 ] || exit 64  # with 1, the first that ends with 75 has the others killed
[ "$2" = --wait=60 ] || exit 66  # else a rank that cannot start is waited for by those that can
[ "$SRUN_CPUS_PER_TASK" = 2 ] || exit 65  # a core a rank else, whatever the job was given
shift 2
pids=()
trap 'kill -USR1 "${pids[@]}"' USR1
for node in 0 1; do
    SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=1 "$@" &
    pids+=($!)
done
code=0
for pid in "${pids[@]}"; do
    wait "$pid"
    one=$?
    while [ $one -gt 128 ] && kill -0 "$pid" 2>/dev/null; do wait "$pid"; one=$?; done
    [ $one -gt $code ] && code=$one
done
exit $code
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo 127.0.0.1; echo 127.0.0.2 ;;
    requeue) echo "requeued $2" >&2 ;;
esac
"""


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes."""
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    programs = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "2"}
    return {**os.environ, **job, "PATH": programs, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def submit(job: dict[str, str], recipe: Path, run: RunFolder, *more: str) -> "subprocess.Popen[str]":
    sets = ["--set", "training.epochs=60", "--set", "training.eval_steps=1000", "--set", "training.save_steps=1000"]
    line = ["bash", str(SCRIPT), str(recipe), str(run.path), *sets, *more]
    return subprocess.Popen(line, env=job, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_job_of_two_nodes_is_queued_again_and_goes_on(job: dict[str, str], tmp_path: Path) -> None:
    recipe = write_recipe(make_model(tmp_path / "model"), tmp_path)
    run = RunFolder(tmp_path / "runs" / "tiny")
    first = submit(job, recipe, run, "--set", "training.micro_batch_size=1")  # its steps are slow ones
    while first.poll() is None and not (run.metrics.exists() and len(losses(run)) >= 5):
        time.sleep(0.05)
    (srun,) = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(srun), signal.SIGUSR1)
    _, words = first.communicate(timeout=600)
    assert first.returncode == 75, words
    assert f"requeued {job['SLURM_JOB_ID']}" in words
    taken = len(losses(run))
    again = submit(job, recipe, run)
    _, words = again.communicate(timeout=600)
    assert again.returncode == 0, words
    assert f"resumed at step {taken}" in words
    summary = read_summary(run.path)
    assert (summary.ranks, summary.steps, len(losses(run))) == (2, 360, 360)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_ranks_without_a_gpu_end_instead_of_training_on_the_cpu(job: dict[str, str], tmp_path: Path) -> None:
    del job["DS_ACCELERATOR"]
    done = submit(job, write_recipe(make_model(tmp_path / "model"), tmp_path), RunFolder(tmp_path / "run"))
    _, words = done.communicate(timeout=600)
    assert done.returncode == 2, words
    assert "cannot use this machine's GPUs" in words
    assert not (tmp_path / "run").exists()
