"""Which device a rank uses, and how ranks exchange values."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deepspeed.accelerator import cuda_accelerator

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError
from bertline.launch import train
from bertline.launch.devices import Devices
from bertline.train import ranks
from tests.train import forked, talking_ranks


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize(("major", "native"), [(7, False), (8, True)])
def test_bf16_that_a_gpu_emulates_is_not_taken(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, major: int, native: bool
) -> None:
    """T4 and V100, for example, for which torch says that bfloat16 is supported."""
    capability = SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    monkeypatch.setattr(ranks, "on_cpu", lambda: False)
    monkeypatch.setattr(ranks, "device", lambda: torch.device("cpu"))
    assert torch.cuda.is_bf16_supported()
    assert ranks.computes_bf16() is native
    gpu = Devices("gpu", {"localhost": ["0"]})
    config = train.deepspeed_configuration(recipes.load(recipe, ["training.precision=auto"]), gpu)
    assert ("torch_autocast" in config, "fp16" in config) == (native, not native)


def test_a_rank_that_finds_no_use_for_the_gpus_of_its_machine_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed would take the CPU; a hostfile's machines do not get this one's DS_ACCELERATOR."""
    monkeypatch.setattr(ranks, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "nvidiactl").touch()  # the driver alone
    monkeypatch.delenv("DS_ACCELERATOR")
    ranks.check()
    (tmp_path / "nvidia0").touch()
    with pytest.raises(InputError, match=r"this machine has GPUs that torch .* cannot use"):
        ranks.check()
    for name, value in {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            ranks.check()
    monkeypatch.setattr(torch.version, "cuda", None)
    ranks.check()


def test_what_the_first_says_all_know(tmp_path: Path) -> None:
    forked.two(tmp_path / "logs", talking_ranks.talk)


def test_ranks_that_are_bound_to_cores_compute_on_all_of_theirs(tmp_path: Path) -> None:
    forked.two(tmp_path / "logs", talking_ranks.start_bound)


def test_deepspeed_numbers_a_rank_as_its_launcher_does_and_not_mpirun(tmp_path: Path) -> None:
    forked.two(tmp_path / "logs", talking_ranks.start_below_mpirun)


@pytest.mark.parametrize(("visible", "taken"), [(8, 3), (1, 0)])
def test_a_rank_takes_the_gpu_that_it_is_shown(monkeypatch: pytest.MonkeyPatch, visible: int, taken: int) -> None:
    """Slurm's --gpus-per-task, for example, shows each task only one."""
    found: list[int] = []
    gpus = SimpleNamespace(device_count=lambda: visible, set_device=found.append)
    monkeypatch.setattr(ranks, "get_accelerator", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "3")
    torch.backends.cuda.enable_cudnn_sdp(True)
    ranks._take_gpu()
    assert (found, os.environ["LOCAL_RANK"]) == ([taken], str(taken))
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("visible", "free"), [("0,3", 1), ("GPU-8f,GPU-1a", 2), ("MIG-8f", 2)])
def test_gpus_may_be_named(monkeypatch: pytest.MonkeyPatch, visible: str, free: int) -> None:
    """With pynvml installed, DeepSpeed asks it for a GPU's memory by number, and would take a name for a number."""
    told = SimpleNamespace(nvmlDeviceGetHandleByIndex=int, nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(free=1))
    monkeypatch.setattr(cuda_accelerator, "pynvml", told)
    gpus = cuda_accelerator.CUDA_Accelerator()
    for name, value in {"device_count": 2, "set_device": None, "total_memory": 4, "memory_allocated": 2}.items():
        monkeypatch.setattr(gpus, name, lambda *_, value=value: value)
    monkeypatch.setattr(ranks, "get_accelerator", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ranks._take_gpu()
    assert gpus.available_memory(0) == free


def test_a_rank_that_waits_for_the_first_ends_when_that_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "logs"
    with forked.ranks(log, talking_ranks.lose_the_first, (), ()) as (_, waiting):
        forked.check_ended([waiting], log, code=1)
    assert "rank 0 died" in (log / "log-1").read_text()


def test_a_rank_that_comes_out_by_itself_is_let_finish(tmp_path: Path) -> None:
    log = tmp_path / "logs"
    with forked.ranks(log, talking_ranks.close_late, (), ()) as both:
        forked.check_ended(both, log, code=75)
    assert (log / "log-0").read_text() == "closed\n"
