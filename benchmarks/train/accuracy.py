"""Whether batching by length, or bf16, costs accuracy: the same trainings with and without, for several seeds.

    python -m bertline.benchmarks.train.accuracy [--seeds N] [--json FILE]

The seed decides the splits, the order, dropout and the head; trainings with one seed differ only in what is compared,
so differences are taken within seeds. Nothing is timed, so the machine may be busy. Where bf16 would be emulated, all
trainings are in fp32.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table

from bertline.artifacts import files, machine
from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError
from bertline.benchmarks.report import Command, dated
from bertline.benchmarks.train import ranks
from bertline.launch.devices import Devices

RECIPE = Path(__file__).with_name("accuracy.yaml")


class Way(NamedTuple):
    """One way to train: the module that each rank executes, and the precision."""

    program: str
    precision: str


def ways(native: bool) -> dict[str, Way]:
    """The ways to train, of which the first is compared with the others.

    Args:
        native: whether the CPU computes bf16 natively.
    """
    precision = "bf16" if native else "fp32"
    found = {
        f"{precision}, by length": Way(ranks.PROGRAM, precision),
        f"{precision}, at random": Way("bertline.benchmarks.train.random_batches", precision),
    }
    return {**found, "fp32, by length": Way(ranks.PROGRAM, "fp32")}


class Difference(NamedTuple):
    """The mean difference between accuracies with the same seeds, and its standard error."""

    mean: float
    error: float


def difference(scores: Sequence[float], than: Sequence[float]) -> Difference:
    """How much higher `scores` are than others, seed by seed; there must be at least two seeds."""
    apart = [one - other for one, other in zip(scores, than, strict=True)]
    return Difference(mean(apart), stdev(apart) / math.sqrt(len(apart)))


def measure(
    recipe: Path, compared: Mapping[str, Way], seeds: Sequence[int], work: Path, console: Console
) -> dict[str, Any]:
    """Train in every way with every seed; returns test accuracies and padding shares by way, in the order of the seeds.

    Raises:
        BertlineError: a training failed.
    """
    accuracy: dict[str, list[float]] = {name: [] for name in compared}
    padding: dict[str, list[float]] = {name: [] for name in compared}
    for seed in seeds:
        for name, way in compared.items():
            folder = work / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            sets = [f"training.seed={seed}", f"training.precision={way.precision}"]
            if code := ranks.start(way.program, recipe, Devices.choose(ranks=1), sets, folder):
                raise BertlineError(f"{name}, seed {seed}: training ended with exit code {code}; the reason is above")
            summary = runs.read_summary(folder)
            accuracy[name].append(summary.test["accuracy"])
            padding[name].append(summary.padding_share)
            console.print(f"seed {seed}, {name}: accuracy {accuracy[name][-1]:.4f}, padding {padding[name][-1]:.1%}")
    return {"seeds": list(seeds), "accuracy": accuracy, "padding_share": padding}


def show(result: Mapping[str, Any]) -> RenderableType:
    """A table of accuracies and one of differences."""
    table = Table("accuracy", *(f"seed {seed}" for seed in result["seeds"]), "mean", "spread", "padding")
    for name, scores in result["accuracy"].items():
        figures = (*scores, mean(scores), max(scores) - min(scores))
        table.add_row(name, *(f"{figure:.4f}" for figure in figures), f"{mean(result['padding_share'][name]):.1%}")
    apart = Table("difference within seeds", "mean", "standard error")
    for name, found in result["differences"].items():
        apart.add_row(name, f"{found['mean']:+.4f}", f"{found['error']:.4f}")
    return Group(table, apart)


def differences(accuracy: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """The differences between the first way and each of the others."""
    base, *others = accuracy
    return {f"{base} less {other}": difference(accuracy[base], accuracy[other])._asdict() for other in others}


@click.command(cls=Command)
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True, help="Train with the seeds 1 to this.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures to this new file.")
def main(seeds: int, report: Path | None) -> None:
    """Train by length and at random, and in bf16 and fp32 where bf16 is native, and compare the accuracies."""
    if report is not None:
        files.check_new(report)
    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="bertline-") as work:
        result = measure(RECIPE, ways(machine.computes_bf16()), range(1, seeds + 1), Path(work), console)
    result = dated({**result, "differences": differences(result["accuracy"])})
    Console().print(show(result))
    if report is not None:
        files.write_json(report, result)


if __name__ == "__main__":
    main()
