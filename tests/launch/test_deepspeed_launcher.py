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
from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices
from tests.waiting import wait_for

RECIPE = Path("recipe.yaml")


def arguments(line: list[str], program: str = "bertline.launch.deepspeed_launcher") -> list[str]:
    """A command line without the Python and the port that differ from one to the next."""
    assert line[:4] == [sys.executable, "-m", program, "--log_level=critical"]
    assert line[4].startswith("--master_port=")
    return line[5:]


def slots(line: list[str]) -> list[str]:
    """What the ranks of this machine get, one each."""
    (world,) = [word.partition("=")[2] for word in line if word.startswith("--world_info=")]
    found: dict[str, list[str]] = json.loads(base64.urlsafe_b64decode(world))
    assert list(found) == ["localhost"]
    return found["localhost"]


def test_cpu_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    line = deepspeed_launcher.command(RECIPE, Devices.choose(ranks=2), ["a=1", "b=2"], Path("run"), resume=True)
    assert slots(line) == ["0", "1"]
    assert arguments(line)[1:] == [
        "--module", "bertline.train", "recipe.yaml", "--set", "a=1", "--set", "b=2", "--run", "run",
        "--resume",
    ]  # fmt: skip
    variables = deepspeed_launcher.environment(Devices.choose(ranks=2))
    assert variables["DS_ACCELERATOR"] == "cpu"
    assert variables["OMP_NUM_THREADS"] == str(max(1, machine.cores() // 2))
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert "CUDA_VISIBLE_DEVICES" not in variables


def test_gpus() -> None:
    devices = Devices("gpu", {"localhost": ["5", "7"]})
    assert slots(deepspeed_launcher.command(RECIPE, devices)) == ["5", "7"]
    assert deepspeed_launcher.environment(devices)["DS_ACCELERATOR"] == "cuda"


def test_hosts() -> None:
    devices = Devices("hosts", {"one": ["0", "1"], "two": ["0"]}, Path("hosts"))
    line = deepspeed_launcher.command(RECIPE, devices)
    assert arguments(line, "deepspeed.launcher.runner")[:3] == ["--hostfile=hosts", "--force_multi", "--module"]


def test_words_for_other_machines_come_through_their_shells() -> None:
    run = Path("/runs/it's 100%n")
    assert deepspeed_launcher.stop_command(Devices.choose(ranks=1), run) == []
    devices = Devices("hosts", {"one": ["0", "1"], "two": ["0"]}, Path("hosts"))
    assert deepspeed_launcher.command(RECIPE, devices, ["a={b,c}"], run)[-3:] == [
        "'a={b,c}'", "--run", "/runs/it's 100%%n",
    ]  # fmt: skip
    line = deepspeed_launcher.stop_command(devices, run)
    assert line[:5] == ["pdsh", "-R", "ssh", "-w", "one,two"]
    assert shlex.split(line[5].replace("%%", "%"))[:3] == ["pkill", "-USR1", "-f"]
    pattern = re.compile(shlex.split(line[5].replace("%%", "%"))[3])
    assert pattern.search(f"python -u -m bertline.train --local_rank=0 recipe.yaml --run {run} --resume")
    assert not pattern.search(f"python -u -m bertline.train --local_rank=0 recipe.yaml --run {run}-2")
    assert not pattern.search(line[5])
    line = deepspeed_launcher.stop_command(devices, Path("a"))
    pattern = re.compile(shlex.split(line[5].replace("%%", "%"))[3])
    assert pattern.search(f"python -u -m bertline.train --local_rank=0 recipe.yaml --run {Path.cwd()}/a")


def test_runs_side_by_side_have_ports_of_their_own() -> None:
    lines = [deepspeed_launcher.command(RECIPE, Devices.choose(ranks=1)) for _ in range(2)]
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
