"""`--hostfile` on one machine: stand-ins for pdsh and ssh run the very commands that two machines would get."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices
from tests.conftest import make_model
from tests.train.conftest import losses, write_recipe
from tests.waiting import wait_for

# As pdsh 2.34 was seen to call ssh: %n is the number of the machine, %% is %; the greatest exit code is its own.
PDSH = """#!/bin/bash
while [[ $1 == -* ]]; do
    case $1 in
        -S) shift; continue ;;
        -w) IFS=, read -ra hosts <<< "$2" ;;
    esac
    shift 2
done
pids=() number=0 code=0
for host in "${hosts[@]}"; do
    words=()
    for word in "$@"; do
        word=${word//%%/$'\\a'}
        word=${word//%n/$number}
        words+=("${word//$'\\a'/%}")
    done
    ssh -oConnectTimeout=10 -2 -a -x "$host" "${words[@]}" &
    pids+=($!)
    number=$((number + 1))
done
for pid in "${pids[@]}"; do
    wait "$pid"
    one=$?
    [ $one -gt $code ] && code=$one
done
exit $code
"""
# Another machine has none of this one's environment, and what it started outlives the connection.
SSH = """#!/bin/bash
while [[ $1 == -* ]]; do [ "$1" = -o ] && shift; shift; done
host=$1
shift
case $* in
    hostname) echo "$host"; exit ;;
    "hostname -I") echo "$host "; exit ;;
esac
cd /
setsid --wait env -i HOME="$HOME" PATH=/usr/bin:/bin \\
    bash -c 'echo $$ >> "$1/$2"; eval "$3"' "$host" "$STANDINS" "$host" "$*" &
wait $!
"""


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The hostfile of two machines with a rank each."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    for name, script in (("pdsh", PDSH), ("ssh", SSH)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("STANDINS", str(folder))
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    hostfile = tmp_path / "hosts"
    hostfile.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    yield hostfile
    for process in [int(line) for host in folder.glob("127.*") for line in host.read_text().split()]:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of 12 steps."""
    return write_recipe(make_model(tmp_path / "model"), tmp_path)


def train(recipe: Path, hostfile: Path, run: RunFolder, *more: str) -> "subprocess.Popen[str]":
    """`bertline train` on these machines."""
    command = str(Path(sys.executable).with_name("bertline"))
    line = [command, "train", str(recipe), "--hostfile", str(hostfile), "--run", str(run.path), *more]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True)


def test_two_machines_train_one_run(recipe: Path, machines: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "it's $HOME, 100%n")
    sets = [
        "--set",
        'data.take={"train":90,"validation":20,"test":20}',
        "--set",
        "data.where={label: [negative, positive]}",
    ]
    training = train(recipe, machines, run, *sets, "--set", "deepspeed.csv_monitor={enabled: true}")
    _, words = training.communicate(timeout=600)
    assert training.returncode == 0, words
    summary = read_summary(run.path)
    assert (summary.ranks, summary.steps, summary.data["test"]) == (2, 12, 20)
    losses_seen = (run.path / "csv_monitor" / "train_loss.csv").read_text().splitlines()
    assert len(losses_seen) == 1 + 12  # of rank 0 alone
    assert [len(host.read_text().split()) for host in sorted((tmp_path / "stand-ins").glob("127.*"))] == [1, 1]


@pytest.mark.parametrize("hosts", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2"]])
def test_what_the_ranks_say_and_their_exit_code_come_through(
    recipe: Path, machines: Path, tmp_path: Path, hosts: list[str]
) -> None:
    machines.write_text("".join(f"{host} slots=1\n" for host in hosts))
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    training = train(recipe, machines, run)
    _, words = training.communicate(timeout=600)
    assert training.returncode == InputError.exit_code, words
    assert words.count("exists but is not a run") == 1
    assert sorted(started.name for started in (tmp_path / "stand-ins").glob("127.*")) == hosts


@pytest.mark.faults
def test_a_preempted_run_saves_on_all_machines_and_goes_on(recipe: Path, machines: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "it's $HOME, 100%n")
    sets = ["--set", "training.epochs=60", "--set", "training.eval_steps=1000", "--set", "training.save_steps=1000"]
    training = train(recipe, machines, run, *sets)
    wait_for(lambda: training.poll() is not None or (run.metrics.exists() and len(losses(run)) >= 5), 600)
    training.send_signal(signal.SIGTERM)
    _, words = training.communicate(timeout=600)
    assert training.returncode == PreemptedError.exit_code, words
    taken = len(losses(run))
    again = train(recipe, machines, run, *sets, "--resume")
    _, words = again.communicate(timeout=600)
    assert again.returncode == 0, words
    assert f"resumed at step {taken}" in words
    assert read_summary(run.path).steps == len(losses(run)) == 360


def test_without_pdsh(machines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="--hostfile: pdsh and ssh not found on PATH"):
        deepspeed_launcher.environment(Devices.choose(hostfile=machines))
