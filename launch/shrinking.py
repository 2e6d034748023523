"""`bertline shrink`: the smallest student of a run that is shown to lose no more than asked, as a bundle.

Sizes are tried from the smallest on: a student is cut from the run, distilled from it, and exported with its drop held
to the run itself. The first that passes is the fastest, so the search ends there. Each student is a run beside the
teacher's; one that is finished is used as it is, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertline.artifacts import encoder, files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import GateError, InputError, PreemptedError
from bertline.artifacts.recipe import Recipe
from bertline.artifacts.run import RunFolder, Summary
from bertline.export.choose import ROUNDING
from bertline.export.export import export
from bertline.export.terms import Terms
from bertline.launch import training

SIXTHS = range(1, 6)
"""The parts of a model's layers that are tried."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tried:
    """A point of the curve of size against accuracy."""

    student: str
    run: str
    layers: list[int]
    value: float
    """The bundle's; PyTorch's where there is no bundle."""
    drop: float
    p50_ms: dict[str, float] | None
    """None where it was not exported."""
    why: str


def shrink(
    place: Path,
    bundle: Path,
    max_drop: float,
    unlabelled: str | None,
    overrides: Sequence[str],
    say: Say,
    **ranks: Any,
) -> dict[str, Any]:
    """Make a bundle of the smallest student that is shown to lose at most `max_drop` of the run's metric.

    Args:
        place: the run, whose data must still be where its recipe says.
        bundle: to be made.
        max_drop: of the teacher's metric on its validation split.
        unlabelled: texts for the students, as `data.unlabelled` of a recipe.
        overrides: KEY=VALUE of the students' recipes.
        say: takes progress.
        ranks: gpus, ranks or hostfile, as `training.start` takes them.

    Returns:
        What `bertline export --json` prints of the bundle, with `curve`: each student that was tried.

    Raises:
        InputError: no finished run; its data has changed; a student's run beside it is of another recipe.
        GateError: no student is shown to lose so little; the message is a table of them.
        PreemptedError: training was asked to stop.
    """
    files.refuse_existing(bundle)
    terms = Terms(max_drop)
    teacher = runs.verify(place)
    terms.check_examples(teacher.data["validation"])
    layers = encoder.layers(encoder.check(RunFolder(place).best))
    curve: list[Tried] = []
    for count in sizes(layers):
        say(f"{named(count)} of {layers}")
        recipe = student(place, count, layers, unlabelled, overrides)
        folder = distilled(recipe, place, say, ranks)
        tried, made = exported(folder, place, teacher, bundle, terms, say)
        curve.append(tried)
        say(f"{tried.student}: {tried.why}")
        if made is not None:
            return {**made, "curve": [asdict(one) for one in curve]}
    raise GateError(
        f"no student is shown to lose at most {max_drop:g}; no bundle was made. Tried:\n{table(curve)}\n"
        "More unlabelled texts (--unlabelled), more epochs (--set training.epochs=N) or a larger --max-drop would help"
    )


def sizes(layers: int) -> list[int]:
    """How many layers are tried of so many, the fewest first."""
    return sorted({max(1, round(layers * part / 6)) for part in SIXTHS} & set(range(1, layers)))


def named(count: int) -> str:
    """A student by its layers."""
    return f"{count} layer{'s' if count > 1 else ''}"


def student(place: Path, count: int, layers: int, unlabelled: str | None, overrides: Sequence[str]) -> Path:
    """Write the recipe of a student beside the teacher's run, where its own run will be, and return its path."""
    from bertline.train.student import spread  # imports torch

    raw = recipes.read(RunFolder(place).recipe).model_dump(mode="json")
    raw["name"] = f"{raw['name']}-{count}-layers"
    raw["model"] = raw["teacher"] = str(place)
    raw["student"] = {"layers": spread(count, layers)}
    raw["data"]["unlabelled"] = unlabelled
    raw["training"]["freeze"]["layers"] = 0
    path = place.with_name(f"{place.name}-{count}-layers.yaml")
    recipes.save(Recipe.model_validate(raw), path)
    recipes.save(recipes.load(path, overrides), path)
    return path


def distilled(recipe: Path, place: Path, say: Say, ranks: dict[str, Any]) -> Path:
    """The finished run of a student, trained or gone on with where it is not.

    Raises:
        InputError: it was trained by another recipe, or is held against other examples than its teacher.
    """
    folder = recipe.with_suffix("")
    run = RunFolder(folder)
    if run.summary.exists():
        if recipes.read(run.recipe) != recipes.read(recipe):
            raise InputError(f"{folder}: a student of another recipe; move it away, or shrink as it was made")
        runs.verify(folder)
        say(f"{folder} is finished already and is used as it is")
    else:
        try:
            training.start(recipe, run=folder, resume=run.recipe.exists(), **ranks)
        except PreemptedError:
            raise PreemptedError(f"{folder}: stopped as asked; the same command goes on") from None
    for split in ("validation", "test"):
        if files.sha256(run.split(split)) != files.sha256(RunFolder(place).split(split)):
            raise InputError(f"{place}: its data has changed: {folder} was held to other {split} examples; restore it")
    return folder


def exported(
    folder: Path, place: Path, teacher: Summary, bundle: Path, terms: Terms, say: Say
) -> tuple[Tried, dict[str, Any] | None]:
    """What became of a student, and the JSON of its bundle where it has passed."""
    summary = runs.read_summary(folder)
    value, best = (float(each.validation[teacher.metric]) for each in (summary, teacher))
    layers = recipes.read(RunFolder(folder).recipe).student.layers or []
    known = Tried(named(len(layers)), str(folder), layers, value, round(best - value, 6), None, "")
    if known.drop > terms.max_drop + ROUNDING:
        return replace(known, why=f"loses {known.drop:.4f} in PyTorch already"), None
    try:
        made = export(str(folder), bundle, terms, say=say, teacher=str(place))
    except GateError as error:
        return replace(known, why=str(error).splitlines()[0]), None
    chosen = next(one for one in made["candidates"] if one["chosen"])
    passed = {"value": made["value"], "drop": made["drop"], "p50_ms": chosen["p50_ms"]}
    return replace(known, **passed, why=f"passes: {made['chosen']}"), made


def table(curve: Sequence[Tried]) -> str:
    """A line for each student."""
    return "\n".join(f"  {one.student:9}  value {one.value:.4f}  drop {one.drop:+.4f}  {one.why}" for one in curve)
