"""Training speed beside a bare PyTorch loop, the Hugging Face Trainer and the loop found in tutorials.

    python -m bertline.benchmarks.train [--steps N] [--rounds N] [--json FILE]

Systems take turns, each alone in its own processes, with the same texts (each once), token ids, model, optimizer,
learning rate, precision, batch size and number of steps. Figures are medians over the rounds. The machine should be
otherwise idle.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table

from bertline.artifacts import files
from bertline.benchmarks.report import Command, dated
from bertline.benchmarks.train import turns

RECIPE = Path(__file__).with_name("reviews.yaml")


@click.command(cls=Command)
@click.option(
    "--steps", type=click.IntRange(1), help="Optimizer steps of each run.  [default: 32 on a CPU, 330 on a GPU]"
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Number of runs of each system.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures to this new file.")
def main(steps: int | None, rounds: int, report: Path | None) -> None:
    """Measure training on full IMDb reviews, each system in turns."""
    if report is not None:
        files.check_new(report)
    say = Console(stderr=True, highlight=False).print
    with tempfile.TemporaryDirectory(prefix="bertline-") as work:
        result = dated(turns.measure(RECIPE, Path(work), steps, rounds, say))
    Console().print(show(result))
    if report is not None:
        files.write_json(report, result)


def show(result: Mapping[str, Any]) -> RenderableType:
    """A table of systems and one of ratios."""
    utilization = ["FLOP utilization"] if "gpu" in result else []
    table = Table(result["precision"], "tokens/s", "range", "padding", "peak MB", "first step, s", *utilization)
    for row in result["systems"]:
        speeds = [one["tokens_per_second"] for one in row["rounds"]]
        used = row.get("flop_utilization")
        table.add_row(
            row["name"],
            f"{row['tokens_per_second']:,.0f}",
            f"{min(speeds):,.0f}–{max(speeds):,.0f}",
            f"{row['padding_share']:.1%}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            f"{row['first_step_seconds']:.1f}",
            *([] if not utilization else ["unknown GPU" if used is None else f"{used:.1%}"]),
        )
    ratios = Table("tokens/s of … over …", "ratio", "by round", "to reach")
    for ratio in result["ratios"]:
        rounds = "  ".join(f"{one:.2f}" for one in ratio["rounds"])
        goal = "" if ratio["at_least"] is None else f"{ratio['at_least']:.2f}"
        ratios.add_row(f"{ratio['of']} / {ratio['over']}", f"{ratio['ratio']:.3f}", rounds, goal)
    return Group(table, ratios)


if __name__ == "__main__":
    main()
