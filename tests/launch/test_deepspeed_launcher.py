"""The line that starts the ranks, its environment, and what becomes of a child that fails or is interrupted."""

import base64
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError
from bertline.launch import deepspeed_launcher
from tests.waiting import wait_for

RECIPE = Path("recipe.yaml")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nvidia-smi lists two GPUs, one with an instance of MIG, and torch can use them."""
    program = tmp_path / "nvidia-smi"
    listed = ["GPU 0: NVIDIA H200 (UUID: a)", "  MIG 1g.18gb Device 0: (UUID: c)", "GPU 1: NVIDIA H200 (UUID: b)"]
    program.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in listed), ""]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for variable in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(deepspeed_launcher, "_torch_version", lambda: "2.13.0")


def arguments(line: list[str], program: str = "bertline.launch.deepspeed_launcher") -> list[str]:
    """A command line without the Python and the port that differ from one to the next."""
    assert line[:4] == [sys.executable, "-m", program, "--log_level=critical"]
    assert line[4].startswith("--master_port=")
    return line[5:]


def devices(line: list[str]) -> list[str]:
    """What the ranks of this machine get, one each."""
    (world,) = [word.partition("=")[2] for word in line if word.startswith("--world_info=")]
    found: dict[str, list[str]] = json.loads(base64.urlsafe_b64decode(world))
    assert list(found) == ["localhost"]
    return found["localhost"]


def test_cpu_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    line = deepspeed_launcher.command(RECIPE, ["a=1", "b=2"], Path("run"), resume=True, ranks=2)
    assert devices(line) == ["0", "1"]
    assert arguments(line)[1:] == [
        "--module", "bertline.train", "recipe.yaml", "--set", "a=1", "--set", "b=2", "--run", "run",
        "--resume",
    ]  # fmt: skip
    variables = deepspeed_launcher.environment(ranks=2)
    assert variables["DS_ACCELERATOR"] == "cpu"
    assert variables["OMP_NUM_THREADS"] == str(max(1, machine.cores() // 2))
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert "CUDA_VISIBLE_DEVICES" not in variables


@pytest.mark.usefixtures("two_gpus")
def test_gpus() -> None:
    assert deepspeed_launcher.default_ranks() == (2, "gpu")
    assert devices(deepspeed_launcher.command(RECIPE)) == ["0", "1"]
    assert devices(deepspeed_launcher.command(RECIPE, gpus=1)) == ["0"]
    assert deepspeed_launcher.environment(gpus=1)["DS_ACCELERATOR"] == "cuda"
    with pytest.raises(InputError, match="--gpus 3: there are 2"):
        deepspeed_launcher.command(RECIPE, gpus=3)


@pytest.mark.usefixtures("two_gpus")
def test_visible_gpus_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,2")
    assert deepspeed_launcher.default_ranks() == (3, "gpu")
    assert devices(deepspeed_launcher.command(RECIPE, gpus=2)) == ["5", "7"]


@pytest.mark.usefixtures("two_gpus")
def test_a_torch_without_cuda_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_launcher, "_torch_version", lambda: "2.13.0+cpu")
    assert deepspeed_launcher.default_ranks() == (machine.numa_nodes(), "cpu")


def test_hosts(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    with pytest.raises(InputError, match="no such file"):
        deepspeed_launcher.command(RECIPE, hostfile=hostfile)
    for content, words in {
        "# one slots=8\n": "names no machine",
        "one slots=8\n\ntwo\n": "line 3: found two; expected `HOST slots=N`",
        "one port=22 slots=8\n": "line 1: found one port=22 slots=8",
        "one slots=0\n": "line 1: found one slots=0; expected",
        "one slots=4\none slots=4\n": "line 2: one is named before",
    }.items():
        hostfile.write_text(content)
        with pytest.raises(InputError, match=words):
            deepspeed_launcher.where(None, None, hostfile)
    hostfile.write_text("# spare slots=9\n one slots=8\n\ntwo slots=4 # slots=7\n")
    assert deepspeed_launcher.where(None, None, hostfile) == ("hosts", 12)
    line = deepspeed_launcher.command(RECIPE, hostfile=hostfile)
    assert arguments(line, "deepspeed.launcher.runner")[:3] == [
        f"--hostfile={hostfile}", "--force_multi", "--module",
    ]  # fmt: skip


def test_words_for_other_machines_come_through_their_shells(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    run = Path("/runs/it's 100%n")
    assert deepspeed_launcher.stop_command(None, run) == []
    hostfile.write_text("one slots=8\n\ntwo slots=4\n")
    assert deepspeed_launcher.command(RECIPE, ["a={b,c}"], run, hostfile=hostfile)[-3:] == [
        "'a={b,c}'", "--run", "/runs/it's 100%%n",
    ]  # fmt: skip
    line = deepspeed_launcher.stop_command(hostfile, run)
    assert line[:5] == ["pdsh", "-R", "ssh", "-w", "one,two"]
    assert shlex.split(line[5].replace("%%", "%"))[:3] == ["pkill", "-USR1", "-f"]
    pattern = re.compile(shlex.split(line[5].replace("%%", "%"))[3])
    assert pattern.search(f"python -u -m bertline.train --local_rank=0 recipe.yaml --run {run} --resume")
    assert not pattern.search(f"python -u -m bertline.train --local_rank=0 recipe.yaml --run {run}-2")
    assert not pattern.search(line[5])
    line = deepspeed_launcher.stop_command(hostfile, Path("a"))
    pattern = re.compile(shlex.split(line[5].replace("%%", "%"))[3])
    assert pattern.search(f"python -u -m bertline.train --local_rank=0 recipe.yaml --run {Path.cwd()}/a")


def test_only_one_kind_of_rank() -> None:
    with pytest.raises(InputError, match="--gpus and --ranks: give one"):
        deepspeed_launcher.command(RECIPE, gpus=1, ranks=1)


def test_runs_side_by_side_have_ports_of_their_own() -> None:
    lines = [deepspeed_launcher.command(RECIPE, ranks=1) for _ in range(2)]
    assert lines[0][4] != lines[1][4]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [("sys.exit(2)", 2, ""), ("print('to stderr')", 0, "to stderr\n"), ("sys.exit(247)", 247, "signal SIGKILL")],
)
def test_exit_codes_and_words_pass_through(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, body: str, code: int, said: str
) -> None:
    assert deepspeed_launcher.run([sys.executable, "-c", f"import sys; {body}"], dict(os.environ)) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_command_ends_the_ranks(tmp_path: Path, number: signal.Signals) -> None:
    file = str(tmp_path / "pid")
    rank = f"import os, pathlib, time; pathlib.Path({file!r}).write_text(str(os.getpid())); time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    command = (
        "import os, sys; from bertline.launch import deepspeed_launcher as d; d.GRACE = 1; "
        f"d.run([sys.executable, '-c', {launcher!r}], dict(os.environ))"
    )
    process = subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    process.send_signal(number)
    assert process.wait(60) != 0
    wait_for(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text()}/exe").exists())


def test_a_terminal_that_closes_ends_nothing_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    closes = "import os, signal, time; os.kill(os.getppid(), signal.SIGHUP); time.sleep(0.1)"
    try:
        assert deepspeed_launcher.run([sys.executable, "-c", closes], dict(os.environ)) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
