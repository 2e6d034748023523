"""What a teacher is worth, on real reviews: students with and without one, and what `bertline shrink` makes of it.

    python -m bertline.benchmarks.distill [--seed N]... [--work DIR] [--json FILE]

For each seed there is a teacher trained on 4,000 labelled reviews; a student of half its layers, fine-tuned on the same
labels alone; the same student as `shrink` distills it, with the other 9,400 reviews as unlabelled texts; and the bundle
that `shrink` finds, timed in turns with the teacher in PyTorch. Finished parts in DIR are reused, so an interrupted
benchmark can be resumed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table

from bertline.artifacts import encoder, files, places, tables
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.benchmarks.report import Command, dated, say
from bertline.launch import train
from bertline.launch.devices import Devices
from bertline.launch.shrink import shrink
from bertline.launch.shrink.results import speedup
from bertline.launch.shrink.students import sizes

RECIPE = Path(__file__).with_name("reviews.yaml")
KEPT = 3
"""Number of layers of the student that is trained with and without its teacher."""
STUDENTS = (
    "training.epochs=2", "training.batch_size=16", "training.learning_rate=2e-4", "training.freeze.embeddings=false"
)  # fmt: skip
MAX_DROP = 0.01
TEXTS = "texts.jsonl"


def measure(seeds: Sequence[int], work: Path, say: Say) -> dict[str, Any]:
    """Train, distill and shrink with every seed.

    Returns:
        `seeds`, with the test accuracies of the teacher and both students, and what shrink found, for each seed.
    """
    write_texts(work / TEXTS)
    return {"seeds": [one_seed(seed, work / f"seed-{seed}", work / TEXTS, say) for seed in seeds]}


def write_texts(path: Path) -> None:
    """Write all reviews without their labels; the ones in a recipe's splits are dropped when the recipe is read."""
    data = recipes.load(RECIPE).data
    rows = (row for file in places.data_files(data.train) for _, row in tables.rows(file))
    kept = (row[data.text] for row in rows if all(row[column] == value for column, value in data.where.items()))
    files.write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in kept))


def one_seed(seed: int, folder: Path, texts: Path, say: Say) -> dict[str, Any]:
    """Train, distill and shrink with one seed, in a folder."""
    teacher = folder / "teacher"
    devices, sets = Devices.choose(), [f"training.seed={seed}"]
    train.finished(RECIPE, devices, teacher, say, sets)
    kept = next(one for one in sizes(encoder.check(RunFolder(teacher).best)) if len(one.layers or []) == KEPT)
    alone = [*sets, f"student.layers={kept.layers}", *STUDENTS]
    labels = train.finished(RECIPE, devices, folder / "labels-alone", say, alone)
    found = shrunk(teacher, folder / "bundle", devices, texts, say)
    taught = teacher.with_name(f"{teacher.name}-{KEPT}-layers")
    return {
        "seed": seed,
        "teacher": runs.read_summary(teacher).test["accuracy"],
        "labels": labels.test["accuracy"],
        "distilled": runs.read_summary(taught).test["accuracy"],
        "shrunk": found,
    }


def shrunk(teacher: Path, bundle: Path, devices: Devices, texts: Path, say: Say) -> dict[str, Any]:
    """What shrink finds; read from the folder if it has finished before."""
    kept = bundle.with_suffix(".json")
    if not kept.exists():
        files.write_json(kept, shrink(teacher, bundle, devices, MAX_DROP, str(texts), STUDENTS, say))
    made = json.loads(kept.read_bytes())
    chosen = next(one for one in made["candidates"] if one["chosen"])
    return {
        "student": made["student"],
        "candidate": chosen["name"],
        "value": chosen["value"],
        "drop_interval": chosen["drop_interval"],
        "times_pytorch": speedup(made),
        "p50_ms": chosen["p50_ms"],
        "pytorch_p50_ms": made["pytorch_p50_ms"],
        "curve": made["curve"],
    }


def show(result: Mapping[str, Any]) -> RenderableType:
    """A table of accuracies and one of bundles."""
    accuracy = Table("test accuracy", "teacher", "labels alone", "distilled", "less teacher", "less labels alone")
    rows = {str(one["seed"]): [one[name] for name in ("teacher", "labels", "distilled")] for one in result["seeds"]}
    for name, figures in {**rows, "mean": [mean(column) for column in zip(*rows.values(), strict=True)]}.items():
        teacher, labels, taught = figures
        apart = (taught - teacher, taught - labels)
        accuracy.add_row(name, *(f"{one:.4f}" for one in figures), *(f"{one:+.4f}" for one in apart))
    bundles = Table("shrink", "student", "candidate", "drop, 95 %", "times the teacher in PyTorch")
    for one in result["seeds"]:
        found = one["shrunk"]
        low, high = found["drop_interval"]
        bundles.add_row(
            str(one["seed"]), found["student"], found["candidate"], f"{low:+.4f} to {high:+.4f}",
            f"{found['times_pytorch']:.1f}",
        )  # fmt: skip
    return Group(accuracy, bundles)


@click.command(cls=Command)
@click.option(
    "--seed", "seeds", type=click.IntRange(0), multiple=True, help="Training seed; may be repeated.  [default: 1, 2, 3]"
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/bench-distill"), show_default=True)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures to this new file.")
def main(seeds: tuple[int, ...], work: Path, report: Path | None) -> None:
    """Distill and shrink a teacher on IMDb reviews, seed by seed."""
    if report is not None:
        files.check_new(report)
    result = dated(measure(seeds or (1, 2, 3), work, say))
    Console().print(show(result))
    if report is not None:
        files.write_json(report, result)


if __name__ == "__main__":
    main()
