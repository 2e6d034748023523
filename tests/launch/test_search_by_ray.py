"""A search on a Ray cluster: runs side by side, one machine lost midway, the rest done by the other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bertline.artifacts.errors import PreemptedError
from bertline.artifacts.run import RunFolder, read_summary
from tests.launch.test_search import DOES_NOT, LEARNS, command, plain

__all__ = ["plain"]
BERTLINE = str(Path(sys.executable).with_name("bertline"))


def test_what_a_run_takes_must_be_said(plain: Path, tmp_path: Path) -> None:
    arguments = command(tmp_path, plain, grid={"training.learning_rate": [LEARNS]})
    arguments.remove("--ranks")
    arguments.remove("1")
    done = subprocess.run([BERTLINE, *arguments, "--engine", "ray"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "--engine ray: say what each run takes of a machine: --gpus N, or --ranks N for its CPU\n"


@pytest.fixture
def machines() -> Iterator[Any]:
    """A cluster of a head that computes nothing and of two machines with a core each, all on this one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


@pytest.mark.load
def test_trials_run_side_by_side_are_stopped_and_go_on_though_a_machine_is_lost(
    machines: Any, plain: Path, tmp_path: Path
) -> None:
    lost, _ = (machines.add_node(num_cpus=1) for _ in range(2))
    arguments = command(tmp_path, plain, grid={"training.learning_rate": [LEARNS, DOES_NOT]})
    arguments += ["--engine", "ray", "--set", "training.epochs=800"]  # long enough to be stopped
    both = [RunFolder(tmp_path / f"out/runs/trial-{number}-fold-1") for number in (1, 2)]

    def begun(steps: int) -> "subprocess.Popen[str]":
        """The command, when both trials have written so many lines."""
        environment = os.environ | {"RAY_ADDRESS": machines.address}
        pipe = subprocess.PIPE
        searching = subprocess.Popen([BERTLINE, *arguments], env=environment, stdout=pipe, stderr=pipe, text=True)
        while searching.poll() is None and not all(lines(run) >= steps for run in both):
            time.sleep(0.05)
        return searching

    searching = begun(1)
    searching.send_signal(signal.SIGTERM)
    _, words = searching.communicate(timeout=100)
    assert searching.returncode == PreemptedError.exit_code, words
    assert not [
        one for one in psutil.process_iter(["cmdline"]) if str(tmp_path / "out") in " ".join(one.info["cmdline"])
    ]
    assert not [run for run in both if run.summary.exists()]
    searching = begun(max(map(lines, both)) + 1)
    machines.remove_node(lost, allow_graceful=False)
    out, words = searching.communicate(timeout=500)
    assert searching.returncode == 0, words
    found = json.loads(out)
    assert len(found["trials"]) == 2
    assert {row["state"] for row in found["trials"]} <= {"complete", "pruned"}
    assert found["best"]["set"] == {"training.learning_rate": LEARNS}
    first, second = (read_summary(run.path) for run in both)
    assert max(first.started, second.started) < min(first.finished, second.finished), "side by side"
    for row in found["trials"]:
        for fold, score in enumerate(row["folds"], 1):
            run = RunFolder(tmp_path / f"out/runs/trial-{row['trial']}-fold-{fold}")
            assert read_summary(run.path).test["accuracy"] == score
            steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
            assert steps == sorted(steps), "one process at a time wrote them"


def lines(run: RunFolder) -> int:
    """How many a run has logged."""
    return len(run.metrics.read_text().splitlines()) if run.metrics.exists() else 0
