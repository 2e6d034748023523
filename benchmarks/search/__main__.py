"""What a search is worth, on real reviews: the settings it finds compared with the recipe's defaults.

    python -m bertline.benchmarks.search [--seed N]... [--work DIR] [--json FILE]

For each seed there is a search, a run of the recipe as it is, and a run of the recipe that the search wrote, with as
many epochs on the same texts. Both runs are scored on the test split, which no trial has seen. Finished parts in DIR
are reused, so an interrupted benchmark can be resumed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bertline.artifacts import files
from bertline.benchmarks.report import Command, dated, say
from bertline.launch import train
from bertline.launch.devices import Devices
from bertline.launch.search import search
from bertline.launch.search.results import words

RECIPE = Path(__file__).with_name("reviews.yaml")


def one_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Search and train with one seed, in a folder.

    Returns:
        The seed, the test accuracies with the default and with the found settings, the settings found, the accuracy
        that the search expected, and the seconds of training that it took.
    """
    devices, sets = Devices.choose(), [f"training.seed={seed}"]
    found = search(RECIPE, sets, folder / "search", say)
    best = Path(found["best"]["recipe"])
    return {
        "seed": seed,
        "defaults": train.finished(RECIPE, devices, folder / "defaults", say, sets).test["accuracy"],
        "found": train.finished(best, devices, folder / "found", say).test["accuracy"],
        "set": found["best"]["set"],
        "expected": found["estimate"]["value"],
        "seconds": sum(trial["seconds"] for trial in found["trials"]),
    }


def show(seeds: Sequence[Mapping[str, Any]]) -> Table:
    """A table with a row for each seed, and their means."""
    drawn = Table("test accuracy", "defaults", "found", "gain", "expected by the search")
    drawn.add_column("settings", overflow="fold")  # a truncated value would say nothing
    for one in seeds:
        scores = one["defaults"], one["found"], one["found"] - one["defaults"], one["expected"]
        drawn.add_row(str(one["seed"]), *map(_score, scores), words(one["set"]))
    defaults, found, expected = (mean(one[name] for one in seeds) for name in ("defaults", "found", "expected"))
    drawn.add_row("mean", *map(_score, (defaults, found, found - defaults, expected)))
    return drawn


def _score(value: float) -> str:
    return f"{value:.4f}"


@click.command(cls=Command)
@click.option(
    "--seed", "seeds", type=click.IntRange(0), multiple=True, help="Training seed; may be repeated.  [default: 1, 2, 3]"
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/bench-search"), show_default=True)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures to this new file.")
def main(seeds: tuple[int, ...], work: Path, report: Path | None) -> None:
    """Search settings for IMDb reviews, seed by seed, and train with them and with the defaults."""
    if report is not None:
        files.check_new(report)
    found = [one_seed(seed, work / f"seed-{seed}") for seed in seeds or (1, 2, 3)]
    Console(markup=False, emoji=False).print(show(found))  # settings must not be read as markup
    if report is not None:
        files.write_json(report, dated({"seeds": found}))


if __name__ == "__main__":
    main()
