"""The devices that a run's ranks get, by flags, nvidia-smi, the environment and hostfiles."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError
from bertline.launch import deepspeed_launcher, devices
from bertline.launch.command import main
from bertline.launch.devices import Devices
from tests.conftest import make_model
from tests.train.conftest import write_recipe


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nvidia-smi lists two GPUs, one with an instance of MIG, and torch can use them.

    The file has a line for each time that nvidia-smi was run.
    """
    program, told = tmp_path / "nvidia-smi", tmp_path / "runs"
    listed = ["GPU 0: NVIDIA H200 (UUID: a)", "  MIG 1g.18gb Device 0: (UUID: c)", "GPU 1: NVIDIA H200 (UUID: b)"]
    lines = [*(f"echo '{line}'" for line in listed), f"echo run >> {told}", ""]
    program.write_text("\n".join(["#!/bin/sh", *lines]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_torch_version", lambda: "2.13.0")
    return told


def test_gpus(two_gpus: Path) -> None:
    assert Devices.choose() == Devices.choose(gpus=2) == Devices("gpu", {"localhost": ["0", "1"]})
    assert Devices.choose(gpus=1) == Devices("gpu", {"localhost": ["0"]})
    with pytest.raises(InputError, match="--gpus 3: there are 2"):
        Devices.choose(gpus=3)


def test_a_start_counts_them_once(two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(make_model(tmp_path / "model"), tmp_path)
    monkeypatch.setattr(deepspeed_launcher, "run", lambda *_: InputError.exit_code)
    result = CliRunner().invoke(main, ["train", str(recipe), "--run", str(tmp_path / "run")])
    assert result.exit_code == InputError.exit_code
    assert two_gpus.read_text() == "run\n"


def test_cpu_ranks(two_gpus: Path) -> None:
    assert Devices.choose(ranks=2) == Devices("cpu", {"localhost": ["0", "1"]})
    assert Devices.choose(ranks=2).ranks == 2
    assert not two_gpus.exists()


def test_visible_gpus_are_kept_to(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,2")
    assert Devices.choose().slots == {"localhost": ["5", "7", "2"]}
    assert Devices.choose(gpus=2).slots == {"localhost": ["5", "7"]}


def test_a_torch_without_cuda_uses_no_gpu(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_version", lambda: "2.13.0+cpu")
    assert (Devices.choose().kind, Devices.choose().ranks) == ("cpu", machine.numa_nodes())
    with pytest.raises(InputError, match="--gpus 1: there are 0 that CUDA can use; --ranks N trains on the CPU"):
        Devices.choose(gpus=1)


def test_hosts(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    with pytest.raises(InputError, match="no such file"):
        Devices.choose(hostfile=hostfile)
    for content, words in {
        "# one slots=8\n": "names no machine",
        "one slots=8\n\ntwo\n": "line 3: found two; expected `HOST slots=N`",
        "one port=22 slots=8\n": "line 1: found one port=22 slots=8",
        "one slots=0\n": "line 1: found one slots=0; expected",
        "one slots=4\none slots=4\n": "line 2: one is named before",
    }.items():
        hostfile.write_text(content)
        with pytest.raises(InputError, match=words):
            Devices.choose(hostfile=hostfile)
    hostfile.write_text("# spare slots=9\n one slots=8\n\ntwo slots=4 # slots=7\n")
    found = Devices.choose(hostfile=hostfile)
    assert (found.kind, list(found.slots), found.ranks, found.hostfile) == ("hosts", ["one", "two"], 12, hostfile)


def test_only_one_kind_of_device() -> None:
    with pytest.raises(InputError, match="--gpus and --ranks: give one"):
        Devices.choose(gpus=1, ranks=1)
