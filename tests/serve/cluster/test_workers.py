"""Bulk prediction on a Ray cluster: the file that one machine makes, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from ray.exceptions import RayError, RayTaskError

from bertline import __version__
from bertline.artifacts import bundle, files
from bertline.artifacts.errors import BertlineError, InputError
from bertline.serve.cluster import connection
from bertline.serve.cluster.worker import NodeWorker
from bertline.serve.cluster.workers import Workers, _Seat
from bertline.serve.lanes import NoAnswerError
from bertline.serve.runtimes import OnnxRuntime
from tests.conftest import make_texts
from tests.waiting import wait_for

BERTLINE = str(Path(sys.executable).with_name("bertline"))
ROWS = 40_000
HIDDEN = "import sys; sys.modules['ray'] = None\n"
OTHER_VERSION = "from bertline.serve.cluster import workers; workers.__version__ = '0'\n"
DYING = """
import os
from bertline.serve.cluster import workers
class Dying(workers.NodeWorker):
    def {method}(self, *arguments):
        os._exit(1)
workers.NodeWorker = Dying
"""
"""Replaces what a machine does by what ends its process."""
COMMAND = "from bertline.launch.command import main; main()\n"


def test_a_worker_answers_only_from_the_bundle_and_by_the_version_of_the_command(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, sha256 = NodeWorker(), files.sha256(sealed / bundle.MANIFEST)
    with pytest.raises(InputError, match="here, but 0 where the command runs"):
        worker.load(sealed, sha256, "0", 1)
    with pytest.raises(InputError, match="not the bundle that the command reads"):
        worker.load(sealed, "0" * 64, __version__, 1)
    with pytest.raises(InputError, match="not a bundle"):
        worker.load(tmp_path, sha256, __version__, 1)
    assert worker.load(sealed, sha256, __version__, 1) is None
    assert all(
        isinstance(one, dict) and one["label"] in ("negative", "positive")
        for one in worker.answer([("good", None)] * 3)
    )
    monkeypatch.setattr(OnnxRuntime, "run", lambda *_: np.array([[np.nan, 0]]))
    assert [type(one) for one in worker.answer([("good", None)] * 3)] == [NoAnswerError] * 3


def test_texts_of_a_worker_that_died_go_to_another(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    killed: list[object] = []

    def get(name: str) -> list[dict[str, object]]:
        asked.append(name)
        if name == "a":
            raise RayError("died")
        return [{"label": "x"}]

    workers._keeper.join()
    workers._fault = None
    for name in "ab":
        remote = SimpleNamespace(remote=lambda texts, name=name: name)
        workers._seats[name] = _Seat(name, name, SimpleNamespace(answer=remote))
    for name in "aab":
        workers._idle.put(workers._seats[name])
    monkeypatch.setattr("bertline.serve.cluster.workers.ray.get", get)
    monkeypatch.setattr("bertline.serve.cluster.workers.ray.kill", killed.append)
    (found,) = workers.submit([("text", None)])
    assert found.result(60).answer == {"label": "x"}
    assert (asked, list(workers._seats), len(killed)) == (["a", "b"], ["b"], 1)


def test_a_command_elsewhere_than_on_the_cluster_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise RuntimeError("No node info found matching attributes: '' when trying to resolve node to connect to.")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(InputError, match=r"^RAY_ADDRESS=auto: this machine is none of the cluster's, and the command"):
        connection.connect()


@pytest.fixture
def workers(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Of a cluster of one machine that goes altogether."""
    told: Iterator[list[dict[str, object]]] = iter([[{}]])
    monkeypatch.setattr("bertline.serve.cluster.workers.connect", lambda **_: None)
    monkeypatch.setattr("bertline.serve.cluster.workers.machines", lambda: next(told))
    with Workers(sealed, lambda words: None) as found:
        yield found


def test_who_waits_for_a_worker_hears_that_none_can_be_started(workers: Workers) -> None:
    (asked,) = workers.submit([("a", None)])
    with pytest.raises(BertlineError, match="workers can no longer be started: "):
        asked.result(10)


def test_a_worker_that_is_ready_is_used_whoever_cannot_be_told(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(words: str) -> None:
        raise BrokenPipeError

    loaded: Future[str | None] = Future()
    loaded.set_result(None)
    monkeypatch.setattr(workers, "_say", say)
    with pytest.raises(BrokenPipeError):
        workers._ready(_Seat("node", "host", None), loaded)
    assert workers._idle.qsize() == 2


def test_a_worker_that_fails_at_texts_is_asked_for_the_next_ones(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(texts: object) -> None:
        raise RayTaskError("answer", "", ValueError("no"))

    worker = SimpleNamespace(answer=SimpleNamespace(remote=lambda texts: texts))
    workers._keeper.join()
    workers._fault = None
    workers._seats["node"] = _Seat("node", "host", worker)
    workers._idle.put(workers._seats["node"])
    monkeypatch.setattr("bertline.serve.cluster.workers.ray.get", fail)
    for _ in range(2):
        (asked,) = workers.submit([("a", None)])
        with pytest.raises(ValueError, match="no"):
            asked.result(60)


@pytest.mark.parametrize(
    ("begin", "address", "words"),
    [
        (HIDDEN, "", "ray is not installed; in bertline's folder: pip install -c constraints.txt '.[ray]'"),
        ("", "127.0.0.1:9", "RAY_ADDRESS=127.0.0.1:9: no Ray cluster at this address ([Errno 111] Connection refused)"),
        ("", "nonsense", "RAY_ADDRESS=nonsense: Invalid address format"),
    ],
)
def test_without_ray_or_a_cluster_it_is_one_line_and_code_2(
    sealed: Path, tmp_path: Path, begin: str, address: str, words: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    done = subprocess.run(
        [sys.executable, "-c", begin + COMMAND, "predict", sealed, "--in", "in.jsonl", "--out", "out.jsonl", "--engine",
         "ray"], cwd=tmp_path, env=os.environ | {"RAY_ADDRESS": address}, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert (done.returncode, words in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.load
def test_a_cluster_without_a_machine_that_computes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    from bertline.serve.cluster import connection

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        with pytest.raises(InputError, match="the Ray cluster has no machine with a CPU; start one with ray start"):
            connection.connect()
    finally:
        cluster.shutdown()


class Machines:
    """A Ray cluster of a head that computes nothing and of two machines with a core each, all on this one."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def worker(self, number: int) -> psutil.Process:
        """The worker of a machine."""
        (raylet,) = self.nodes[number].all_processes["raylet"]
        (found,) = [
            one
            for one in psutil.Process(raylet.process.pid).children(recursive=True)
            if one.name().startswith("ray::NodeWorker")
        ]
        return found

    def lose(self, number: int) -> None:
        """A machine goes without a word."""
        self.cluster.remove_node(self.nodes.pop(number), allow_graceful=False)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's
        found = Machines()
        yield found
        found.cluster.shutdown()


class Predicting:
    """The command, with two files that it answers: rows, some of which are bad."""

    def __init__(self, folder: Path, folder_of_bundle: Path, address: str) -> None:
        self.folder, self.bundle, self.address = folder, folder_of_bundle, address
        rows = [json.dumps({"text": row["text"]}) for row in make_texts(ROWS, 3)]
        rows[7] = rows[ROWS // 2] = "not JSON"
        (folder / "in.jsonl").write_text("\n".join(rows) + "\n")

    def start(self, name: str, engine: str) -> subprocess.Popen[bytes]:
        command = [BERTLINE, "predict", str(self.bundle), "--in", "in.jsonl", "--out", f"{name}.jsonl"]
        with self.log(name).open("wb") as stream:
            return subprocess.Popen(
                [*command, "--errors", f"{name}-bad.jsonl", "--engine", engine], cwd=self.folder, stderr=stream,
                env=os.environ | {"RAY_ADDRESS": self.address}, stdout=subprocess.PIPE,
            )  # fmt: skip

    def run(self, name: str, engine: str) -> str:
        """What it said."""
        return self.end(name, self.start(name, engine))

    def end(self, name: str, process: subprocess.Popen[bytes]) -> str:
        """What a process said that does well."""
        shown, _ = process.communicate(timeout=600)
        said = self.log(name).read_text()
        assert (process.returncode, shown) == (0, b""), said
        return said

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def done(self, name: str) -> int:
        """How many rows an unfinished output has."""
        path = self.folder / f".{name}.jsonl.unfinished/journal.json"
        return int(json.loads(path.read_text())["rows"]) if path.exists() else 0

    def wait(self, name: str, machines: int) -> None:
        """Until it is midway, on so many machines."""
        log = self.log(name)
        wait_for(lambda: self.done(name) >= ROWS // 20 and log.read_text().count(": ready") >= machines, 120)
        assert self.done(name) < ROWS

    def contents(self, name: str) -> tuple[bytes, bytes]:
        return (self.folder / f"{name}.jsonl").read_bytes(), (self.folder / f"{name}-bad.jsonl").read_bytes()


@pytest.fixture(scope="module")
def predicting(machines: Machines, sealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Predicting:
    """`whole` is answered already, by the local engine."""
    found = Predicting(tmp_path_factory.mktemp("cluster"), sealed, machines.cluster.address)
    found.run("whole", "local")
    return found


@pytest.mark.load
def test_a_cluster_makes_the_same_file_whatever_dies(machines: Machines, predicting: Predicting) -> None:
    whole = predicting.contents("whole")
    assert len(whole[0].splitlines()) == ROWS - 2

    deaths: dict[str, Callable[[], object]] = {
        "none": lambda: None,
        "worker": lambda: machines.worker(0).kill(),
        "machine": lambda: machines.lose(0),
    }
    for name, happen in deaths.items():
        process = predicting.start(name, "ray")
        predicting.wait(name, 2)
        happen()
        assert predicting.done(name) < ROWS
        said = predicting.end(name, process)
        counts = [said.count(words) for words in ("Ray: 2 machines", "its worker is gone", ": ready")]
        assert counts == [1, int(name != "none"), 3 if name == "worker" else 2], said
        assert predicting.contents(name) == whole


@pytest.mark.load
def test_a_command_that_is_killed_goes_on_with_either_engine(machines: Machines, predicting: Predicting) -> None:
    for engine in ("local", "ray"):
        name = f"killed-{engine}"
        process = predicting.start(name, "ray")
        predicting.wait(name, len(machines.nodes))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert 0 < predicting.done(name) < ROWS
        assert "resuming after " in predicting.run(name, engine)
        assert predicting.contents(name) == predicting.contents("whole")


@pytest.mark.load
@pytest.mark.parametrize(
    ("begin", "code", "words"),
    [
        (OTHER_VERSION, 2, f"bertline is {__version__} here, but 0 where the command runs"),
        (DYING.format(method="load"), 1, "no worker starts: "),
        (DYING.format(method="answer"), 1, "5 workers in a row died on the same texts: "),
    ],
)
def test_workers_that_never_answer_end_the_command(predicting: Predicting, begin: str, code: int, words: str) -> None:
    arguments = ["predict", str(predicting.bundle), "--in", "in.jsonl", "--out", "never.jsonl", "--engine", "ray"]
    done = subprocess.run(
        [sys.executable, "-c", begin + COMMAND, *arguments], cwd=predicting.folder, capture_output=True,
        env=os.environ | {"RAY_ADDRESS": predicting.address}, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (predicting.folder / ".never.jsonl.unfinished").exists()
