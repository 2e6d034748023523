"""The job for Kubeflow's training operator: its pods run here, each in the environment that the operator gives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertline.artifacts import machine
from bertline.artifacts.run import RunFolder, read_summary
from tests.conftest import make_model
from tests.train.conftest import losses, write_recipe

JOB: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "launch/cluster/pytorchjob.yaml").read_text())
REPLICAS: dict[str, Any] = JOB["spec"]["pytorchReplicaSpecs"]
CONTAINER: dict[str, Any] = REPLICAS["Master"]["template"]["spec"]["containers"][0]
RETRYABLE = range(128, 256)
"""The exit codes after which restartPolicy ExitCode starts a pod again: IsRetryableExitCode of the operator."""


def test_what_the_operator_asks_of_a_job() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert REPLICAS.keys() == {"Master", "Worker"}
    assert REPLICAS["Master"]["replicas"] == 1
    assert {replica["restartPolicy"] for replica in REPLICAS.values()} == {"ExitCode"}
    assert CONTAINER["name"] == "pytorch"
    assert isinstance(JOB["spec"]["nprocPerNode"], str)
    assert JOB["spec"]["runPolicy"]["activeDeadlineSeconds"] > 0
    assert {replica["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] for replica in REPLICAS.values()} == {
        "false"
    }
    assert JOB["spec"]["nprocPerNode"] == str(CONTAINER["resources"]["limits"]["nvidia.com/gpu"])


def test_what_a_pod_mounts_is_there() -> None:
    volumes = {volume["name"] for volume in REPLICAS["Master"]["template"]["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts.keys() == volumes
    assert mounts["work"] == CONTAINER["workingDir"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The volume of all pods: a recipe of 120 steps, that evaluates and saves at the end alone."""
    recipe = write_recipe(make_model(tmp_path / "model"), tmp_path)
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 20\n  eval_steps: 1000\n  save_steps: 1000"))
    return tmp_path


@pytest.mark.parametrize(
    ("ends", "again"), [("exit 75", True), ("kill -TERM $$", True), ("kill -KILL $$", False), ("exit 2", False)]
)
def test_only_a_pod_that_was_asked_to_stop_is_started_again(tmp_path: Path, ends: str, again: bool) -> None:
    """Two ranks, of which the first ends as it may, and the second fails therefore."""
    rank = tmp_path / "python"
    rank.write_text(f'#!/bin/bash\n[ "$LOCAL_RANK" = 1 ] && exit 1\n{ends}\n')
    rank.chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RANK": "0", "PET_NPROC_PER_NODE": "2"}
    given |= {"RECIPE": "recipe.yaml", "RUN": "run"}
    done = subprocess.run([*CONTAINER["command"], *CONTAINER["args"]], cwd=tmp_path, env=given, stderr=subprocess.PIPE)
    assert (done.returncode in RETRYABLE) is again, done.stderr


def start(work: Path, pods: int, ranks: int) -> list["subprocess.Popen[str]"]:
    """Start pods of so many ranks each: their containers' command, as the operator's envvar.go sets it up."""
    given = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
    given |= {
        "DS_ACCELERATOR": "cpu",
        "PYTHONUNBUFFERED": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(machine.free_port()),
    }
    given |= {"WORLD_SIZE": str(pods * ranks), "PET_NPROC_PER_NODE": str(ranks), "PET_NNODES": str(pods)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    here = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [*CONTAINER["command"], *CONTAINER["args"]],
            cwd=work,
            env={**here, **given, "RANK": str(number), "PET_NODE_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(pods)
    ]


def end(pods: list["subprocess.Popen[str]"]) -> tuple[list[int], str]:
    """Their exit codes, and what all have said."""
    words = "".join(pod.communicate(timeout=600)[1] for pod in pods)
    return [pod.returncode for pod in pods], words


def test_a_preempted_job_is_started_again_and_goes_on_in_pods_of_another_size(work: Path) -> None:
    run = RunFolder(work / "runs" / "bertline")
    recipe = (work / "recipe.yaml").read_text()
    (work / "recipe.yaml").write_text(recipe.replace("training:", "training:\n  micro_batch_size: 1"))  # slow steps
    pods = start(work, pods=2, ranks=1)
    while all(pod.poll() is None for pod in pods) and not (run.metrics.exists() and len(losses(run)) >= 5):
        time.sleep(0.05)
    pods[1].send_signal(signal.SIGTERM)  # as the node of one is drained
    codes, words = end(pods)
    assert codes == [143, 143], words
    assert all(code in RETRYABLE for code in codes)
    taken = len(losses(run))
    (work / "recipe.yaml").write_text(recipe)
    codes, words = end(start(work, pods=1, ranks=2))
    assert codes == [0], words
    assert f"resumed at step {taken}" in words
    summary = read_summary(run.path)
    assert (summary.ranks, summary.steps, len(losses(run))) == (2, 120, 120)


def test_a_wrong_recipe_ends_the_job(work: Path) -> None:
    (work / "recipe.yaml").write_text("name: wrong\n")
    codes, words = end(start(work, pods=2, ranks=1))
    assert codes == [2, 2]
    assert not any(code in RETRYABLE for code in codes)
    assert "task: missing" in words
