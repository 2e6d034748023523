"""What a search is worth: the settings that it finds beside the recipe's defaults, on real reviews.

    python -m bertline.benchmarks.search [--seed N]... [--work DIR] [--json FILE]

Of each seed: a search; a run of the recipe as it is; and a run of the recipe that the search has written, of as many
epochs on the same texts. All are scored on the test split, which no trial has seen. What is finished in DIR is used as
it is, so a benchmark that was cut goes on.
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
from bertline.launch.search import search
from bertline.launch.search.results import words

RECIPE = Path(__file__).with_name("reviews.yaml")


def one_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Search and train with a seed, in a folder.

    Returns:
        seed; test accuracies with the defaults and with what was found; the settings; what the search expected; the
        seconds of training that it took.
    """
    sets = [f"training.seed={seed}"]
    found = search(RECIPE, sets, folder / "search", say)
    best = Path(found["best"]["recipe"])
    return {
        "seed": seed,
        "defaults": train.finished(RECIPE, folder / "defaults", say, sets).test["accuracy"],
        "found": train.finished(best, folder / "found", say).test["accuracy"],
        "set": found["best"]["set"],
        "expected": found["estimate"]["value"],
        "seconds": sum(trial["seconds"] for trial in found["trials"]),
    }


def show(seeds: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each seed, and their means."""
    drawn = Table("test accuracy", "defaults", "found", "gain", "expected by the search")
    drawn.add_column("settings", overflow="fold")  # a value that is cut short says nothing
    for one in seeds:
        scores = one["defaults"], one["found"], one["found"] - one["defaults"], one["expected"]
        drawn.add_row(str(one["seed"]), *map(_score, scores), words(one["set"]))
    defaults, found, expected = (mean(one[name] for one in seeds) for name in ("defaults", "found", "expected"))
    drawn.add_row("mean", *map(_score, (defaults, found, found - defaults, expected)))
    return drawn


def _score(value: float) -> str:
    return f"{value:.4f}"


@click.command(cls=Command)
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="Of a trial.  [default: 1, 2, 3]")
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/bench-search"), show_default=True)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures to this new file.")
def main(seeds: tuple[int, ...], work: Path, report: Path | None) -> None:
    """Search settings for IMDb reviews, seed by seed, and train with them and without."""
    if report is not None:
        files.check_new(report)
    found = [one_seed(seed, work / f"seed-{seed}") for seed in seeds or (1, 2, 3)]
    Console(markup=False, emoji=False).print(show(found))  # settings are shown as they are
    if report is not None:
        files.write_json(report, dated({"seeds": found}))


if __name__ == "__main__":
    main()
