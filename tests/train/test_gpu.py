"""What needs CUDA GPUs: precisions and ZeRO stages, launched runs, resuming a loss scale, running out of memory."""

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from bertline.artifacts.recipe_schema import Training
from bertline.artifacts.run import RunFolder, read_summary
from bertline.launch import deepspeed_launcher
from bertline.launch.devices import Devices
from bertline.models import pytorch
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.train import engine, memory
from bertline.train import model as models
from bertline.train.data.batches import Batches
from bertline.train.loop import Trainer
from bertline.train.losses import Loss
from bertline.train.objective import Objective
from tests import encoders
from tests.conftest import classifier, make_texts
from tests.train import plain
from tests.train.conftest import encode, logged, losses, train_here

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    """This process as the only rank, on the first GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    from bertline.train import ranks

    before = dict(os.environ)
    os.environ.pop("DS_ACCELERATOR", None)
    ranks.start()
    assert not ranks.on_cpu(), "DeepSpeed has chosen the CPU, once for this process: run these tests with -m gpu"
    yield
    ranks.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def in_fp32(recipe: Path, gpu: None, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the recipe in fp32."""
    return losses(train_here(recipe, tmp_path_factory.mktemp("fp32") / "run"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-4), ("bf16", 0.03), ("fp16", 0.03)])
def test_every_stage_gives_the_same_curve(
    in_fp32: list[float], recipe: Path, tmp_path: Path, precision: str, apart: float, stage: int
) -> None:
    sets = [f"training.precision={precision}", f"training.zero_stage={stage}", "training.micro_batch_size=5"]
    if precision == "fp16":
        sets.append("deepspeed.fp16={initial_scale_power: 8}")  # the default, 2 ** 16, would skip steps
    run = train_here(recipe, tmp_path / "run", sets)
    assert losses(run) == pytest.approx(in_fp32, abs=apart)
    assert all(tensor.dtype == torch.float32 for tensor in plain.weights(run.best).values())


@pytest.mark.parametrize(("gpus", "stage"), [(1, 1), *((2, stage) for stage in STAGES)])
def test_the_launched_run_gives_the_same_curve(
    in_fp32: list[float], recipe: Path, tmp_path: Path, gpus: int, stage: int
) -> None:
    """By the same command that `bertline train --gpus` executes."""
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")
    sets = ["training.precision=bf16", f"training.zero_stage={stage}"]
    devices = Devices.choose(gpus=gpus)
    line = deepspeed_launcher.command(recipe, devices, sets, tmp_path / "run")
    assert deepspeed_launcher.run(line, deepspeed_launcher.environment(devices)) == 0
    assert losses(RunFolder(tmp_path / "run")) == pytest.approx(in_fp32, abs=0.03)
    summary = read_summary(tmp_path / "run")
    assert (summary.ranks, summary.precision) == (gpus, "bf16")


def test_gradient_checkpointing_gives_the_same_curve(in_fp32: list[float], recipe: Path, tmp_path: Path) -> None:
    sets = ["training.precision=bf16", "training.gradient_checkpointing=true"]
    assert losses(train_here(recipe, tmp_path / "run", sets)) == pytest.approx(in_fp32, abs=0.03)


def has_searched(trainer: Trainer) -> None:
    assert float(trainer.engine.optimizer.loss_scale) != 2.0**24


@pytest.mark.parametrize("stage", STAGES)
def test_fp16_trains_and_resumes_with_its_loss_scale(recipe: Path, tmp_path: Path, stage: int) -> None:
    """The scale halves with each skipped step and doubles after two others, so it differs from the initial one."""
    scale = "deepspeed.fp16={initial_scale_power: 24, loss_scale_window: 2}"
    sets = ["training.precision=fp16", f"training.zero_stage={stage}", "training.save_steps=4", scale]
    whole = train_here(recipe, tmp_path / "whole", sets)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "stopped", sets, stop=6)
    stopped = train_here(recipe, tmp_path / "stopped", sets, resume=True, look=has_searched)
    assert logged(stopped) == logged(whole)
    assert read_summary(whole.path).precision == "fp16"


def test_offloading_changes_nothing_but_memory(in_fp32: list[float], recipe: Path, tmp_path: Path) -> None:
    offloaded = "deepspeed.zero_optimization={offload_optimizer: {device: cpu}, offload_param: {device: cpu}}"
    run = train_here(recipe, tmp_path / "run", ["training.precision=fp32", "training.zero_stage=3", offloaded])
    assert losses(run) == pytest.approx(in_fp32, abs=1e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_goes_on_from_a_universal_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """The same path as on another number of ranks, for which one GPU is not enough."""
    sets = ["training.precision=fp32", f"training.zero_stage={stage}", "training.save_steps=4"]
    whole = train_here(recipe, tmp_path / "whole", sets)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "stopped", sets, stop=6)
    monkeypatch.setattr(
        engine, "started", lambda make, found, stage: engine.resumed_elastically(make, found.checkpoint)
    )
    stopped = train_here(recipe, tmp_path / "stopped", sets, resume=True)
    assert losses(stopped) == pytest.approx(losses(whole), abs=1e-4)


def test_modernbert_is_not_compiled(tmp_path: Path) -> None:
    """By default it would if Triton is installed, which comes with torch for CUDA."""
    folder = encoders.make("modernbert", tmp_path / "model")
    loaded = models.load(folder, catalog.make(classifier()), Training()).cuda()
    outputs = pytorch.outputs(loaded, {"input_ids": torch.ones(2, 8, dtype=torch.int64, device="cuda")})
    assert outputs.isfinite().all()


def test_padding_that_attends_to_nothing_spoils_no_gradient(tmp_path: Path) -> None:
    """The padding of a short text beside a long one, in layers that see 8 tokens to each side."""
    loaded = models.load(encoders.make("modernbert", tmp_path / "model"), catalog.make(classifier()), Training()).cuda()
    tokens = torch.ones(2, 64, dtype=torch.int64, device="cuda")
    mask = tokens.clone()
    mask[0, 4:] = 0
    with torch.autocast("cuda", torch.bfloat16):
        outputs = pytorch.outputs(loaded, {"input_ids": tokens, "attention_mask": mask})
    outputs.sum().backward()  # type: ignore[no-untyped-call]
    assert outputs.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in loaded.parameters() if parameter.grad is not None)


def test_a_micro_batch_is_halved_until_it_fits(model: Path) -> None:
    task = catalog.make(classifier())
    tokenizer = task.tokenizer(model)
    split = encode([Example(row["text"], None, row["label"]) for row in make_texts(4096)], task, tokenizer)
    training = Training(batch_size=4096, zero_stage=0)
    objective = Objective(Loss(task.settings, training, split.windows.targets))
    make_batches = partial(Batches, split, objective, tokenizer, rank=0, ranks=1)
    gc.collect()
    torch.cuda.empty_cache()
    room = (torch.cuda.memory_allocated() + 200e6) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(room + memory.SPARE)
    zero = DeepSpeedZeroConfig(stage=0)
    try:
        fitted = memory.fit(
            training, zero, lambda: models.load(model, task, training), make_batches, lambda _: objective, "bf16"
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fitted.micro_batch_size in (64, 128, 256, 512, 1024, 2048)
