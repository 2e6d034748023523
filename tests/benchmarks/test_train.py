"""The training measurement: its arithmetic by hand, and a tiny turn of every system."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import BertlineError, InputError
from bertline.benchmarks.train import __main__ as command
from bertline.benchmarks.train import accuracy, figures, flops, job, turns, worker
from bertline.benchmarks.train.figures import Figures
from bertline.benchmarks.train.job import WARM_UP, Counts, Job, Kind, Told
from bertline.benchmarks.train.turns import System
from tests.conftest import make_model
from tests.train.conftest import write_recipe

STEPS = WARM_UP["cpu"] + 1
BERT_BASE = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}


def test_ranks_choose_how_threads_wait_before_torch_is_imported() -> None:
    """As those of `bertline train` do: torch's OpenMP reads it once, on import."""
    modules = "from bertline.benchmarks.train import random_batches, timed"
    done = subprocess.run([sys.executable, "-c", f"import sys; {modules}; assert 'torch' not in sys.modules"])
    assert done.returncode == 0


def test_figures_are_of_the_steps_after_the_warm_up() -> None:
    ends = [12.0, 13.0, 14.0, 16.0, 18.0]
    told = [Told(ends=ends, peak_bytes=5, counts=None), Told(ends=ends, peak_bytes=6, counts=None)]
    counts = [(9, 90), (9, 90), (9, 90), (30, 40), (50, 60), (7, 7)]  # the last is a step that was not measured
    found = figures.figures(10.0, told, counts, "cpu")
    assert found._fields == ("tokens_per_second", "padding_share", "peak_bytes", "first_step_seconds")
    assert found == pytest.approx((20.0, 0.2, 11, 2.0))


def test_steps_that_are_all_warm_up_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--steps 3: the first 3 are not measured; give more"):
        turns.measure(tmp_path / "recipe.yaml", tmp_path, 3, 1, print)


def run(speed: float, first: float = 1.0) -> Figures:
    return Figures(speed, 0.0, 1, first)


def test_medians_over_rounds() -> None:
    row = figures.row("x", [run(1, 9), run(5, 7), run(3, 8)])
    assert (row["name"], row["tokens_per_second"], row["first_step_seconds"]) == ("x", 3, 8)
    assert [one["tokens_per_second"] for one in row["rounds"]] == [1, 5, 3]


def test_a_ratio_is_the_median_of_what_each_round_says() -> None:
    measured = {
        figures.BERTLINE: [run(20), run(30), run(10)],
        figures.TRAINER: [run(10), run(20), run(10)],  # a slow round is slow for both
        figures.TUTORIAL: [run(5), run(5), run(5)],
    }
    found = figures.ratios(measured)
    assert [(one["over"], one["ratio"], one["at_least"]) for one in found] == [
        (figures.TRAINER, 1.5, 1.3),
        (figures.TUTORIAL, 4.0, 1.5),
    ]
    assert found[0]["rounds"] == [2.0, 1.5, 1.0]


def test_flops_by_hand() -> None:
    # a layer of BERT-base multiplies by 4 · 768² + 2 · 768 · 3072 = 7,077,888 parameters, twelve by 84,934,656
    assert flops.per_token(BERT_BASE, 256) == 6 * 84_934_656 + 12 * 12 * 768 * 256 == 537_919_488
    share = flops.utilization(BERT_BASE, 256, 500_000, "NVIDIA H100 80GB HBM3")
    assert share == pytest.approx(500_000 * 537_919_488 / 989e12) == pytest.approx(0.27195, abs=1e-5)
    peaks = {
        "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12, "NVIDIA H200 NVL": 835e12, "NVIDIA H200": 989e12,
        "NVIDIA A100-SXM4-80GB": 312e12, "Tesla T4": None,
    }  # fmt: skip
    assert {name: flops.peak(name) for name in peaks} == peaks
    assert flops.utilization(BERT_BASE, 256, 500_000, "Tesla T4") is None


def test_differences_are_taken_within_seeds() -> None:
    found = accuracy.difference([0.84, 0.80, 0.85], [0.83, 0.80, 0.83])
    assert found.mean == pytest.approx(0.01)
    assert found.error == pytest.approx(0.01 / math.sqrt(3))


def test_bf16_is_left_out_where_it_would_be_emulated() -> None:
    assert list(accuracy.ways(native=True)) == ["bf16, by length", "bf16, at random", "fp32, by length"]
    assert list(accuracy.ways(native=False)) == ["fp32, by length", "fp32, at random"]
    scores = {"fp32, by length": [0.84, 0.80], "fp32, at random": [0.83, 0.80]}
    assert list(accuracy.differences(scores)) == ["fp32, by length less fp32, at random"]


def test_the_recipes_are_sound() -> None:
    for path, length in ((command.RECIPE, 256), (accuracy.RECIPE, 128)):
        recipe = recipes.load(path)
        assert (recipe.tokens.max_length, recipe.training.batch_size) == (length, 32)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` makes of a tiny recipe, in fp32."""
    from bertline.benchmarks.train import prepare

    folder = tmp_path_factory.mktemp("recipe")
    recipe = write_recipe(make_model(folder / "model"), folder)
    work = tmp_path_factory.mktemp("work")
    prepare.prepare(recipe, work, "cpu", STEPS, ["fp32"])
    return work


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """The environment as it was, whatever the Trainer sets."""
    before = dict(os.environ)
    os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
    yield
    os.environ.clear()
    os.environ.update(before)


def counts(work: Path, ranks: int) -> Counts:
    from bertline.benchmarks.train import prepare

    recipe = recipes.read(work / "fp32.yaml")
    return prepare.count(prepare.batches(recipe, prepare.load(recipe, work), ranks))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("kind", ["bare", "trainer", "grouped", "tutorial"])
def test_a_turn_of_the_others(kind: Kind, work: Path, tmp_path: Path) -> None:
    launched = time.monotonic()
    todo = Job(
        kind=kind, recipe=work / "fp32.yaml", work=work, folder=tmp_path, device="cpu", steps=STEPS, launched=launched
    )  # fmt: skip
    worker.main(todo.save())
    (told,) = todo.told()
    assert len(told.ends) == STEPS
    assert [launched, *told.ends] == sorted([launched, *told.ends])
    assert told.counts is not None
    assert len(told.counts) == STEPS
    same = counts(work, ranks=1)
    assert sum(real for real, _ in told.counts) == sum(real for real, _ in same)  # each text once
    if kind == "bare":
        assert told.counts == same
    if kind == "tutorial":
        assert {computed for _, computed in told.counts} == {16 * 32}
    found = figures.figures(launched, [told], told.counts, "cpu")
    assert found.tokens_per_second > 0
    assert found.peak_bytes > 50e6


def test_a_turn_of_bertline_on_two_ranks(work: Path, tmp_path: Path) -> None:
    system = System(figures.TWO_RANKS, "bertline", "fp32", 2)
    found = turns.turn(system, work, tmp_path / "turn", "cpu", STEPS, counts(work, ranks=2))
    told = [Told.model_validate_json(path.read_bytes()) for path in sorted((tmp_path / "turn").glob("rank-*.json"))]
    assert [len(rank.ends) for rank in told] == [STEPS, STEPS]
    assert found.peak_bytes == sum(rank.peak_bytes for rank in told)
    assert 0 < found.padding_share < 0.3
    assert 0 < found.first_step_seconds < 600


def test_a_system_that_fails_is_told_with_its_last_words(work: Path, tmp_path: Path) -> None:
    files.write_text(work / "broken.yaml", "name: [")
    with pytest.raises(BertlineError, match=r"worker: ended with exit code 1\n(.|\n)*broken\.yaml"):
        turns.turn(System("Trainer", "trainer", "broken", 1), work, tmp_path / "turn", "cpu", STEPS, [])


def test_the_tables() -> None:
    from rich.console import Console

    result = {
        "precision": "bf16",
        "systems": [figures.row(figures.BERTLINE, [Figures(1234.5, 0.0213, 2_000_000, 9.96)])],
        "ratios": [{**figures.RATIOS[0]._asdict(), "ratio": 1.4, "rounds": [1.4]}],
    }
    console = Console(width=120)
    with console.capture() as shown:
        console.print(command.show(result))
    for figure in ("bertline", "1,234", "2.1%", "10.0", "bertline / Trainer", "1.400", "1.30"):
        assert figure in shown.get()


def test_the_clock_waits_for_no_gpu_on_a_cpu(tmp_path: Path) -> None:
    clock = job.Clock(
        Job(kind="bare", recipe=tmp_path, work=tmp_path, folder=tmp_path, device="cpu", steps=2, launched=0.0)
    )
    clock.tick()
    clock.tick()
    clock.tell([(1, 2)], rank=3)
    told = Told.model_validate_json((tmp_path / "rank-3.json").read_bytes())
    assert told.counts == [(1, 2)]
    assert 0 < told.ends[0] <= told.ends[1]
