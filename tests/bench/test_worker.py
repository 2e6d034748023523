import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertline.artifacts.errors import BertlineError, DamagedError, InputError
from bertline.bench import compare, inputs, worker
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.models.pytorch import PyTorchRuntime
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch
from tests.conftest import classifier

ORPHAN = """
import os, pickle, signal, sys
from bertline.bench.worker import Worker

if __name__ == "__main__":
    worker = Worker(pickle.load(sys.stdin.buffer), threads=1)
    worker.prepare()
    print(worker._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid: int) -> bool:
    """Whether the process runs: not gone, and not merely waiting to be reaped."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_failing_system_is_told_in_one_line_and_no_process_is_left(systems: list[System], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    pair = [systems[1], System("half-baked", "onnxruntime", broken, systems[1].tokenizer, classifier())]
    with (
        pytest.raises(DamagedError, match=r"^half-baked: .*broken\.onnx: ONNX Runtime .* cannot load it") as caught,
        compare.started(pair, threads=1) as workers,
    ):
        compare.measure(workers, [("a good film", None)], [(1, 16)], rounds=1)
    assert [one.failed for one in workers] == [False, True]
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_told_by_its_signal(systems: list[System]) -> None:
    with Worker(systems[1], threads=1) as one:
        one.prepare()
        pid = one._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BertlineError, match=r"^onnxruntime-fp32: its process ended by SIGKILL"):
            one.peak_rss_bytes()
    assert one.failed
    assert not alive(pid)


def test_pytorch_answers_in_company_as_alone(systems: list[System]) -> None:
    """Longer and shorter texts together, in their order."""
    texts = [(" ".join(["a good film"] * (index % 7 + 1)), None) for index in range(worker.BATCH + 5)]
    with Worker(systems[0], threads=1) as pytorch:
        together = pytorch.outputs(texts)
        alone = [pytorch.outputs([text])[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_system_answers_while_another_is_asked(systems: list[System]) -> None:
    texts = [("a good film", None), ("a bad one", None)]
    with compare.started(systems[:2], threads=1) as (pytorch, onnx):
        answered = pytorch.outputs_later(texts)
        np.testing.assert_allclose(onnx.outputs(texts), answered(), atol=1e-3)
        pid = pytorch._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        answered = pytorch.outputs_later(texts)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BertlineError, match=r"^pytorch: its process ended by SIGKILL"):
            answered()


def test_a_worker_ends_when_its_parent_is_killed(systems: list[System], tmp_path: Path) -> None:
    import pickle

    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    parent = subprocess.run(
        [sys.executable, script], input=pickle.dumps(systems[1]), stdout=subprocess.PIPE, check=False, timeout=60
    )
    assert parent.returncode == -signal.SIGKILL
    for _ in range(300):
        if not alive(int(parent.stdout)):
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent by 30 s")


def test_peak_memory_is_the_workers_own_not_its_parents(systems: list[System]) -> None:
    ballast = b"x" * 400_000_000
    with Worker(systems[1], threads=1) as one:
        one.prepare()
        assert 10_000_000 < one.peak_rss_bytes() < worker.peak_rss_bytes() - len(ballast) // 2


def cpu_ticks(pid: int | None) -> int:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def test_a_worker_that_has_answered_uses_no_processor(systems: list[System]) -> None:
    (batch,) = inputs.make(systems[1].tokenizer, [("a good film", None)], [(1, 64)])
    with Worker(systems[1], threads=2) as one:
        one.load(batch)
        spent = []
        for _ in range(5):
            one.time(batch, None)
            before = cpu_ticks(one._process.pid)
            time.sleep(0.3)
            spent.append(cpu_ticks(one._process.pid) - before)
        assert min(spent) <= 1  # of 100 ticks a second and thread


def test_transformers_reads_by_the_models_own_folder_whatever_the_systems_tokenizer_is(
    systems: list[System], tmp_path: Path
) -> None:
    """Otherwise a tokenizer made by bertline would be compared with itself."""
    made = shutil.copytree(systems[0].tokenizer, tmp_path / "made")
    content = json.loads((made / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (made / "tokenizer.json").write_text(json.dumps(content))
    with Worker(replace(systems[0], tokenizer=made), threads=1) as worker:
        (window,) = worker.read_later([("good", None)])().windows
    assert window.input_ids[1] == words["bad"]


def test_the_first_repetition_is_not_counted() -> None:
    calls: list[None] = []
    seconds = worker.repeat(lambda: calls.append(None), warm_up_seconds=0.0, turn_seconds=0.0)
    assert worker.MIN_REPETITIONS <= len(seconds) < len(calls)


def test_every_repetition_comes_after_another_length(systems: list[System]) -> None:
    """OpenVINO is slower whenever the length changes, which it does from text to text."""
    lengths = []

    class Recording:
        def run(self, batch: Batch) -> Output:
            lengths.append(batch["input_ids"].shape[1])
            return np.zeros((1, 2), np.float32)

    inside = worker._Inside(systems[0], threads=1)
    vars(inside)["runtime"] = Recording()
    batch, between = inputs.make(systems[0].tokenizer, [("a good film", None)], [(1, 64), (1, 16)])
    (seconds,) = inside.time(batch, between, 0.0, 0.0)
    assert lengths == [16, 64] * (1 + len(seconds))  # a warm-up before them


def test_a_model_without_its_head_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match=r"no weights for classifier\.bias, classifier\.weight"):
        PyTorchRuntime(tiny_model, "ForSequenceClassification", threads=1)


def test_a_model_that_is_no_text_classifier_is_refused(tiny_model: Path) -> None:
    config = tiny_model / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "vitmatte"'))
    with pytest.raises(InputError, match="transformers has no 'vitmatte' ForSequenceClassification"):
        PyTorchRuntime(tiny_model, "ForSequenceClassification", threads=1)


def test_what_comes_before_a_repetition_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def spend(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(worker, "perf_counter", lambda: clock[0])
    assert worker.repeat(lambda: spend(1), 0.0, 0.0, lambda: spend(10)) == [1, 1]
