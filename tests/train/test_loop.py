"""The loop against a plain PyTorch loop and against itself: other micro-batches, stopped and resumed, refused."""

import itertools
import json
import math
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.checkpoint import Index
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.artifacts.run import DataFiles, RunFolder
from bertline.models import pytorch, tokenizer_json
from bertline.train import cache, checkpoints, evaluation, loop, preemption, ranks, run_folder, setup, watchdog
from bertline.train import model as train_model
from bertline.train.data import prepared, splitting
from bertline.train.data.batches import Batch, Batches
from bertline.train.loop import Trainer
from bertline.train.progress import Progress
from bertline.train.ranks import Figures
from tests.train import plain
from tests.train.conftest import logged, losses, train_here

pytestmark = pytest.mark.usefixtures("rank")


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses that the plain loop computes for the recipe."""
    loaded = recipes.load(recipe)
    return plain.train(loaded, splitting.make(loaded, tmp_path_factory.mktemp("splits")))[0]


@pytest.fixture(scope="module")
def finished(recipe: Path, rank: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_here(recipe, tmp_path_factory.mktemp("finished") / "run", ["training.save_steps=2"])


def test_a_run_is_trained_by_one_process_at_a_time(recipe: Path, tmp_path: Path) -> None:
    def again(trainer: Trainer) -> None:
        for resume in (False, True):
            with pytest.raises(InputError, match="run: another process is training it; wait for it"):
                train_here(recipe, tmp_path / "run", resume=resume)

    run = train_here(recipe, tmp_path / "run", ["training.epochs=1"], look=again)
    with pytest.raises(InputError, match="holds a finished run"):
        train_here(recipe, run.path)


def test_a_rank_that_has_lost_its_launcher_does_not_take_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another launcher may be about to start ranks of its own."""
    monkeypatch.setattr(preemption, "asked", preemption.Flag())
    preemption.asked.set_without(os.getpid())
    with pytest.raises(PreemptedError, match="before anything was done"), run_folder.alone(RunFolder(tmp_path / "run")):
        raise AssertionError
    assert not cache.lock_of(tmp_path / "run").exists()


@pytest.mark.parametrize(("stage", "micro_batch_size"), [(0, 16), (1, 5), (2, 5), (3, 5)])
def test_one_rank_is_the_plain_loop(
    expected: list[float], recipe: Path, tmp_path: Path, stage: int, micro_batch_size: int
) -> None:
    sets = [f"training.zero_stage={stage}", f"training.micro_batch_size={micro_batch_size}"]
    assert losses(train_here(recipe, tmp_path / "run", sets)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("stage", "what"), [(1, ["optimizer"]), (2, ["optimizer"]), (3, ["optimizer", "param"])])
def test_offloading_changes_nothing_but_memory(
    expected: list[float], recipe: Path, tmp_path: Path, stage: int, what: list[str]
) -> None:
    offloaded = [f"deepspeed.zero_optimization.offload_{each}={{device: cpu}}" for each in what]
    run = train_here(recipe, tmp_path / "run", [f"training.zero_stage={stage}", *offloaded])
    assert losses(run) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("zero_optimization={overlap_com: true}", "overlap_com: found True; DeepSpeedZeroConfig: Extra inputs"),
        (
            "zero_optimization.offload_optimizer={device: gpu}",
            "offload_optimizer.device: found 'gpu'; .*'nvme'",
        ),
        (
            "comms_logger={enabled: sometimes}",
            "enabled: found 'sometimes'; CommsLoggerConfig: .*a valid bool",
        ),
        ("gradient_cliping=1.0", "gradient_cliping: not a key; did you mean gradient_clipping?"),
        ("wall_clock_breakdown=yes please", "unsupported operand"),
        ("flops_profiler=true", "'bool' object has no attribute"),
        ("elasticity={enabled: true}", "Elastic training has been removed"),
        ("checkpoint={tag_validation: x}", "Checkpoint config contains invalid tag_validation value of X"),
    ],
)
def test_what_deepspeed_does_not_know_is_told_before_data_is_read(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, words: str
) -> None:
    monkeypatch.delattr(setup, "load_material")
    with pytest.raises(InputError, match=f"deepspeed: {words}"):
        train_here(recipe, tmp_path / "run", [f"deepspeed.{wrong}"])
    assert not (tmp_path / "run").exists()


def test_fp16_that_no_loss_scale_saves_is_told_as_any_divergence(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up() -> None:
        raise Exception("Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.")

    def look(trainer: Trainer) -> None:
        trainer.state.precision = "fp16"
        monkeypatch.setattr(trainer.engine, "step", give_up)

    words = r"step 1: the gradients are not finite, .* or training\.precision=fp32 would help"
    with pytest.raises(BertlineError, match=words):
        train_here(recipe, tmp_path / "run", look=look)


def test_a_models_folder_is_of_the_node_that_reads_it(
    recipe: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub's cache may have a different path on each node, so rank 0 must not tell the others its own."""
    from_first, told = ranks.from_first, []

    def telling(make: Callable[[], Any]) -> Any:
        told.append(from_first(make))
        return told[-1]

    monkeypatch.setattr(ranks, "from_first", telling)
    train_here(recipe, tmp_path / "run", ["training.epochs=1"])
    assert model not in told


def test_a_tokenizer_is_read_once_and_kept_where_nothing_is_left_over(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary folder would stay forever if the rank were killed."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def look(trainer: Trainer) -> None:
        assert trainer.tokenizer_folder.parent == tmp_path / ".bertline-cache"
        assert not list((tmp_path / "temporary").glob("bertline-*"))

    train_here(recipe, tmp_path / "run", ["training.epochs=1"], look=look)
    monkeypatch.setattr(tokenizer_json, "_as_transformers_reads", None)
    train_here(recipe, tmp_path / "again", ["training.epochs=1"], look=look)


@pytest.mark.parametrize(
    ("module", "name"),
    [(checkpoints, "save"), (evaluation, "mean_loss"), (train_model, "save"), (pytorch, "load")],
)
def test_what_a_slow_disk_or_a_long_score_takes_is_no_standstill(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """best/ is loaded last, for the test split."""
    watch = SimpleNamespace(limit=None, beat=lambda doing: None)
    watch.allow = lambda seconds: setattr(watch, "limit", seconds)
    original, limits = getattr(module, name), []

    def observed(*arguments: Any, **settings: Any) -> Any:
        limits.append(watch.limit)
        return original(*arguments, **settings)

    monkeypatch.setattr(watchdog, "_watch", watch)
    monkeypatch.setattr(module, name, observed)
    train_here(recipe, tmp_path / "run", ["training.epochs=1"])
    assert limits[-1] is None


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["tokens.max_length=16"], r"; \d\d% of the texts are longer than 16 tokens and are cut"),
        (["tokens.max_length=16", "tokens.long=windows"], ""),
        (["tokens.max_length=64"], ""),
    ],
)
def test_how_many_texts_are_cut_is_told(recipe: Path, model: Path, tmp_path: Path, sets: list[str], told: str) -> None:
    loaded = recipes.load(recipe, sets)
    ready = prepared.load(loaded, prepared.prepare(loaded, model, tmp_path, Progress(speaks=False)))
    words = "texts: 90 train, 20 validation, 30 test; labels: negative, positive"
    assert re.fullmatch(f"{words}{told}", setup.describe(ready))


@pytest.mark.parametrize(("cut", "told"), [(1, False), (2, True)])
def test_texts_that_are_cut_are_told_from_one_percent_on(
    recipe: Path, model: Path, tmp_path: Path, cut: int, told: bool
) -> None:
    loaded = recipes.load(recipe)
    ready = prepared.load(loaded, prepared.prepare(loaded, model, tmp_path, Progress(speaks=False)))
    windows: Any = SimpleNamespace(truncated=np.arange(200) < cut)
    words = setup.describe(ready._replace(train=replace(ready.train, windows=windows)))
    assert ("; 1% of the texts are longer than 32 tokens and are cut" in words) == told
    assert told or "cut" not in words


def test_gradient_checkpointing_changes_nothing_but_memory(expected: list[float], recipe: Path, tmp_path: Path) -> None:
    on = []
    run = train_here(
        recipe, tmp_path / "run", ["training.gradient_checkpointing=true"],
        look=lambda trainer: on.append(trainer.engine.module.is_gradient_checkpointing),
    )  # fmt: skip
    assert on == [True]
    assert losses(run) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stop", [0, 14])
def test_a_run_that_gets_no_better_ends_early(recipe: Path, tmp_path: Path, stop: int) -> None:
    sets = ["training.epochs=5", "training.learning_rate=1e-9", "training.early_stopping_patience=2"]
    if stop:  # after an evaluation that was not the best; the resumed run must count it
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe, tmp_path / "run", sets, stop=stop)
    run = train_here(recipe, tmp_path / "run", sets, resume=bool(stop))
    summary = runs.read_summary(run.path)
    assert (summary.steps, summary.best.step) == (18, 6)
    assert len(losses(run)) == 18


def test_bf16_stays_close_to_fp32(expected: list[float], recipe: Path, tmp_path: Path) -> None:
    run = train_here(recipe, tmp_path / "run", ["training.precision=bf16"])
    assert losses(run) == pytest.approx(expected, abs=1e-3)  # if nothing were learned it would be 4e-3
    assert all(tensor.dtype == torch.float32 for tensor in plain.weights(run.best).values())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_is_the_uninterrupted_run(recipe: Path, tmp_path: Path, stage: int) -> None:
    sets = [f"training.zero_stage={stage}", "training.dropout=0.1", "training.save_steps=4", "training.best=loss"]
    whole = train_here(recipe, tmp_path / "whole", sets)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "stopped", sets, stop=7)  # step 4 is saved, step 6 evaluated
    stopped = train_here(recipe, tmp_path / "stopped", sets, resume=True)
    assert logged(stopped) == logged(whole)
    for name, tensor in plain.weights(whole.best).items():
        assert torch.equal(tensor, plain.weights(stopped.best)[name]), name
    assert runs.read_summary(stopped.path).test == runs.read_summary(whole.path).test


def test_a_run_stopped_before_a_checkpoint_begins_again(recipe: Path, finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "run", ["training.save_steps=2"], stop=1)
    resumed = train_here(recipe, tmp_path / "run", ["training.save_steps=2"], resume=True)
    assert logged(resumed) == logged(finished)


def test_speed_counts_the_wait_for_batches_and_no_evaluation(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, states, prefetch = [0.0], [], Batches.prefetch

    def taking(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            now[0] += seconds
            return work(*arguments)

        return slow

    def late(batches: Batches, step: int, pin: bool) -> Iterator[Batch]:
        for batch in prefetch(batches, step, pin):
            now[0] += 1
            yield batch

    monkeypatch.setattr(loop, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Batches, "prefetch", late)
    for name, seconds in {"forward_backward_step": 2, "evaluate": 100, "save": 100}.items():
        monkeypatch.setattr(Trainer, name, taking(seconds, getattr(Trainer, name)))
    train_here(recipe, tmp_path / "run", look=lambda trainer: states.append(trainer.state))
    assert states[0].training_seconds == 12 * (1 + 2)


def test_what_a_run_leaves(finished: RunFolder) -> None:
    names = {path.relative_to(finished.path).as_posix() for path in finished.path.rglob("*") if path.is_file()}
    kept = ("checkpoint.json", "deepspeed/mp_rank_00_model_states.pt", "zero_to_fp32.py", "zero_to_torch.py",
            "deepspeed/zero_pp_rank_0_mp_rank_00_optim_states.pt")  # fmt: skip
    best = ("best/config.json", "best/model.safetensors", "best/tokenizer.json", "best/tokenizer_config.json",
            "best/special_tokens_map.json")  # fmt: skip
    assert names == {
        "recipe.yaml", "run.json", "metrics.jsonl",
        "splits/validation.jsonl", "splits/test.jsonl", "splits/calibration.jsonl",
        *best, *(f"checkpoints/step-{step}/{name}" for step in (10, 12) for name in (*kept, *best)),
    }  # fmt: skip


def test_the_summary(finished: RunFolder) -> None:
    summary = runs.verify(finished.path)
    assert summary.steps == 12
    assert summary.data == {"train": 90, "validation": 20, "test": 30}
    assert summary.labels == ["negative", "positive"]
    assert summary.validation[summary.metric] == summary.best.value
    assert 0 < summary.padding_share < 0.5
    assert json.loads((finished.best / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}


def test_the_summary_tells_what_the_run_was_made_of(finished: RunFolder, recipe: Path, model: Path) -> None:
    found = runs.read_summary(finished.path).provenance
    assert found is not None
    assert found.weights_sha256 == files.sha256(model / "model.safetensors")
    assert found.data == {"train": DataFiles(files=[files.entry(recipe.with_name("texts.jsonl"))])}
    assert (found.revision, found.teacher_sha256) == (None, None)


def test_held_out_texts_are_in_the_splits(finished: RunFolder) -> None:
    rows = [json.loads(line) for line in finished.split("test").read_text().splitlines()]
    assert len(rows) == 30
    assert {row["label"] for row in rows} == {"negative", "positive"}


def test_a_finished_run_is_left_alone(recipe: Path, finished: RunFolder) -> None:
    before = finished.summary.read_bytes()
    for resume in (False, True):
        with pytest.raises(InputError, match="holds a finished run"):
            train_here(recipe, finished.path, ["training.save_steps=2"], resume=resume)
    assert finished.summary.read_bytes() == before


def test_an_unfinished_run_is_neither_overwritten_nor_resumed_differently(recipe: Path, tmp_path: Path) -> None:
    sets = ["training.save_steps=2"]
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "run", sets, stop=3)
    with pytest.raises(InputError, match="did not finish; continue it with --resume"):
        train_here(recipe, tmp_path / "run", sets)
    with pytest.raises(InputError, match=r"training.epochs: 3 now, 2 when"):
        train_here(recipe, tmp_path / "run", [*sets, "training.epochs=3"], resume=True)
    path = tmp_path / "run/checkpoints/step-2/checkpoint.json"
    index = Index.model_validate_json(path.read_text())
    index.state.precision, index.state.data = "fp16", "other"
    path.write_text(index.dump())
    with pytest.raises(InputError, match=r"(?s)data is not what.*made in fp16, this machine would train in fp32"):
        train_here(recipe, tmp_path / "run", sets, resume=True)


def test_what_changes_no_batch_may_be_other_when_a_run_goes_on(
    recipe: Path, finished: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe, tmp_path / "run", ["training.save_steps=2"], stop=3)
    sets = ["training.save_steps=1", "training.micro_batch_size=1", "training.timeout=100"]
    resumed = train_here(recipe, tmp_path / "run", sets, resume=True)
    assert recipes.read(resumed.recipe).training.micro_batch_size == 1
    assert losses(resumed) == pytest.approx(losses(finished), abs=1e-5)


def test_nothing_to_resume(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to resume"):
        train_here(recipe, tmp_path / "run", resume=True)


def test_a_folder_that_is_no_run_is_refused(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="exists but is not a run"):
        train_here(recipe, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(recipe: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "broken")
    tensors = plain.weights(model)
    tensors["encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "broken/model.safetensors", {"format": "pt"})
    with pytest.raises(BertlineError, match=r"step 1: the loss is nan, .*; a lower training\.learning_rate would help"):
        train_here(recipe, tmp_path / "run", [f"model={tmp_path / 'broken'}"])
    assert losses(RunFolder(tmp_path / "run")) == []


@pytest.mark.parametrize(("stage", "what"), [(0, "weights are not finite"), (1, "gradients are not finite")])
def test_gradients_that_are_no_numbers_spoil_no_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, what: str
) -> None:
    """The loss itself stays finite, as for a square root at 0: a torch hook turns the gradients into NaN in step 4."""
    sets = [f"training.zero_stage={stage}", "training.save_steps=2"]
    forward_backward_step, steps = Trainer.forward_backward_step, itertools.count(1)

    def spoiled(trainer: Trainer, batch: Batch) -> Figures:
        if next(steps) == 4:
            for parameter in trainer.engine.module.parameters():
                parameter.register_hook(lambda gradient: gradient * math.nan)
        return forward_backward_step(trainer, batch)

    monkeypatch.setattr(Trainer, "forward_backward_step", spoiled)
    with pytest.raises(BertlineError, match=f"step 4: the {what}, so the run ends here"):
        train_here(recipe, tmp_path / "run", sets)
    monkeypatch.undo()
    run = train_here(recipe, tmp_path / "run", sets, resume=True)
    assert logged(run) == logged(train_here(recipe, tmp_path / "whole", sets))


@pytest.mark.parametrize(("sets", "what"), [(["training.save_steps=1"], "checkpoint"), ([], "model")])
def test_a_full_disk(recipe: Path, tmp_path: Path, sets: list[str], what: str) -> None:
    with files_of_at_most(60_000), pytest.raises(InputError, match=f"the {what} could not be written"):
        train_here(recipe, tmp_path / "run", sets)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
    assert not (tmp_path / "run/best").exists()
    train_here(recipe, tmp_path / "run", sets, resume=True)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let writes beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_dropout_is_drawn_by_seed_step_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(seed: int, step: int, rank: int) -> tuple[float, ...]:
        monkeypatch.setattr("bertline.train.loop.dist.get_rank", lambda: rank)
        loop.seed_dropout(seed, step)
        return tuple(torch.rand(4).tolist())

    drawn = [draw(*each) for each in itertools.product((1, 2), (0, 1), (0, 1))]
    assert len(set(drawn)) == 8
    assert draw(1, 0, 0) == drawn[0]
