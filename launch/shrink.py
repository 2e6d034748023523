"""`bertline shrink`: makes a bundle of the fastest student of a run that is shown to stay within --max-drop.

The largest student is cut from the run, each smaller one from the student before it, and all are distilled from the
run. They are then exported from the smallest up, their drop measured against the run itself. The first that passes on
its own has the fewest layers that suffice; it is then pruned to half the heads and feed-forward units of each layer.
Students that do not pass alone are tried in a cascade, where they defer to a larger model when unsure: the fastest
student that passes alone or, if there is none, the run itself. The student of the fastest cascade is pruned to half as
well. The fastest of all that pass becomes the bundle.

Each student is a run beside the teacher's. When the same command is given again, finished students are reused and
unfinished ones resumed; exports are repeated.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from bertline.artifacts import checkpoint, encoder, files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import DamagedError, GateError, InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe, Student
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.export import sources
from bertline.export.choose import ROUNDING
from bertline.export.examples import check_answers, check_examples
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.teacher import Teacher
from bertline.launch import train
from bertline.launch.devices import Devices

SIXTHS = (4, 3, 2, 1)
"""The sizes that are tried, in sixths of the model's layers."""


@dataclass(frozen=True)
class Tried:
    """A student that was tried: a point on the curve of size against accuracy."""

    student: str
    """Its name."""
    run: str
    kept: dict[str, Any]
    """What it keeps of the teacher's run, as in the `student` section of a recipe."""
    value: float
    """Metric of its bundle, or in PyTorch if there is no bundle."""
    drop: float
    p50_ms: dict[str, float] | None
    """Median latency by BATCHxLENGTH; None, as is `speedup`, unless it passed."""
    speedup: float | None
    """Relative to the teacher in PyTorch, timed in turns with it, so that it is comparable between exports."""
    why: str


class Attempt(NamedTuple):
    """A student and, if it passed, the result of its export."""

    tried: Tried
    made: dict[str, Any] | None


class Larger(NamedTuple):
    """The model that students defer to in cascades."""

    name: str
    bundle: Path
    to_beat: float
    """Its speedup where it may be handed over itself, else 0."""


@dataclass(frozen=True)
class Shrinking:
    """A run to shrink, and the settings for it."""

    place: Path
    """The teacher's run."""
    bundle: Path
    options: ExportOptions
    unlabelled: str | None
    overrides: Sequence[str]
    devices: Devices
    say: Say

    def students(self, largest_first: Sequence[Student]) -> list[Attempt]:
        """Try students alone, those that do not pass in cascades, and then the fastest cascade's student, halved."""
        learned: list[Tried] = []
        for kept in largest_first:
            learned.append(self.learned(kept, learned[-1] if learned else None))
        alone = list(self.alone(learned[::-1]))
        reached = {one.tried.run for one in alone}
        rest = [Attempt(one, None) for one in learned[::-1] if one.run not in reached]  # larger than one that passes
        larger = self.larger(alone)
        if larger is None:
            return [*alone, *rest]
        tried = [one if one.made else self.cascaded(one.tried, larger) for one in alone]
        return [*tried, *self.halved_asking(tried, larger), *rest]

    def alone(self, smallest_first: Sequence[Tried]) -> Iterator[Attempt]:
        """Try students from the smallest up to the first that passes, then that one halved."""
        for tried in smallest_first:
            yield (attempt := self.told(self.attempt(tried)))
            if attempt.made is not None:
                if (less := halved(tried)) is not None:
                    yield self.told(self.attempt(self.learned(less, tried)))
                return

    def halved_asking(self, tried: Sequence[Attempt], larger: Larger) -> Iterator[Attempt]:
        """Try the student of the fastest cascade, halved: it may defer hardly more often."""
        asking = [(speedup(one.made), one.tried) for one in tried if one.made and one.made["cascade"]]
        if asking and (less := halved(whole := max(asking, key=lambda one: one[0])[1])) is not None:
            yield self.cascaded(self.learned(less, whole), larger)

    def learned(self, kept: Student, base: Tried | None = None) -> Tried:
        """Distill a student and score it in PyTorch.

        Args:
            kept: what the student keeps of the run.
            base: the student that it is cut or pruned from; None if that is the run itself.
        """
        self.say(f"{named(kept)}: distilling")
        folder = distilled(self.student(kept, base), self.place, self.say, self.devices)
        teacher, student = (runs.read_summary(one) for one in (self.place, folder))
        best, value = (float(one.validation[teacher.held_to]) for one in (teacher, student))
        drop = round(best - value, 6)
        why = f"loses {drop:.4f} in PyTorch"
        return Tried(named(kept), str(folder), kept.model_dump(), value, drop, None, None, why)

    def attempt(self, tried: Tried) -> Attempt:
        """Export a student, unless its drop in PyTorch rules it out already."""
        if tried.drop > self.options.max_drop + ROUNDING:
            return Attempt(replace(tried, why=f"{tried.why} already"), None)
        return self.exported(tried, self.options, self.teacher)

    def cascaded(self, tried: Tried, larger: Larger) -> Attempt:
        """Export a student that does not pass alone in a cascade with a larger model."""
        self.say(f"{tried.student}: deferring to {larger.name} when unsure")
        teacher = replace(self.teacher, asked=larger.bundle, to_beat=larger.to_beat)
        found = self.exported(tried, replace(self.options, quick=True), teacher)
        if found.made is None:
            return self.told(Attempt(replace(tried, why=f"{tried.why}; with {larger.name}: {found.tried.why}"), None))
        share = found.made["cascade"]["share"]
        unit = runs.read_summary(Path(tried.run)).tokens.unit
        why = f"{found.tried.why}, which asks {larger.name} about {share:.0%} of the {unit}"
        return self.told(Attempt(replace(found.tried, why=why), found.made))

    def told(self, attempt: Attempt) -> Attempt:
        """Report an attempt and return it."""
        self.say(f"{attempt.tried.student}: {attempt.tried.why}")
        return attempt

    @cached_property
    def teacher(self) -> Teacher:
        """The reference model of all students."""
        return Teacher(str(self.place))

    def larger(self, alone: Sequence[Attempt]) -> Larger | None:
        """The model to defer to in cascades: the fastest student that passes alone, or else the run itself.

        None if neither passes, or if the task is not to give each text one label.
        """
        if runs.read_summary(self.place).problem_type != "single_label_classification":
            return None
        passed = [(speedup(made), tried.student, made["bundle"]) for tried, made in alone if made is not None]
        if passed:
            fastest, name, bundle = max(passed)
            return Larger(name, Path(bundle), fastest)
        return self.whole()

    def whole(self) -> Larger | None:
        """The run itself as a bundle; None if no candidate of it passes."""
        self.say(f"{self.place}: exporting it, for students that do not pass alone to defer to")
        bundle = self.unseen(self.place)
        try:
            export(str(self.place), bundle, replace(self.options, quick=True), say=self.say)
        except GateError as error:
            self.say(f"no cascades: {error}")
            return None
        return Larger(str(self.place), bundle, to_beat=0.0)

    def unseen(self, run: Path) -> Path:
        """The temporary place of a run's bundle, until the fastest is chosen.

        It is beside the final one, because a bundle names its source relative to itself, and has the kind of name that
        `tempfile` gives, so that `files.remove_left` finds it.
        """
        digest = hashlib.sha256(run.name.encode()).hexdigest()
        return self.bundle.with_name(files.temporary_prefix(self.bundle) + digest[:8])

    def student(self, kept: Student, base: Tried | None = None) -> Path:
        """Write a student's recipe beside the teacher's run, where its own run will be; returns the recipe's path.

        A student of a student has learned before, and trains for half as many epochs: see docs/benchmarks.md.

        Args:
            kept: what the student keeps of the run.
            base: as for `learned`.
        """
        raw = recipes.read(RunFolder(self.place).recipe).model_dump(mode="json")
        short = named(kept).replace(", ", "-").replace(" ", "-")
        path = self.place.with_name(f"{self.place.name}-{short}.yaml")
        raw["name"] = f"{raw['name']}-{short}"
        raw["model"] = raw["teacher"] = str(self.place)
        raw["student"] = kept.model_dump()
        raw["data"]["unlabelled"] = self.unlabelled
        raw["search"] = {}  # its values may suit the teacher alone
        raw["training"]["freeze"]["layers"] = 0  # they would be other layers in the student
        raw["training"] |= {"label_smoothing": 0.0, "class_weights": None}  # for labels; it learns from the teacher
        recipes.save(Recipe.model_validate(raw), path)
        recipe = recipes.load(path, self.overrides)
        if base is not None:
            theirs, ours = base.kept["layers"], kept.layers or []
            layers = None if ours == theirs else [theirs.index(layer) for layer in ours]
            epochs = ceil(recipe.training.epochs / 2)
            changed = {"model": base.run, "student.layers": layers, "training.epochs": epochs}
            recipe = recipes.with_settings(recipe, changed)
        recipes.save(recipe, path)
        return path

    def exported(self, tried: Tried, options: ExportOptions, teacher: Teacher) -> Attempt:
        """Export a student to a temporary place; the attempt has no result if no candidate passes."""
        try:
            made = export(tried.run, self.unseen(Path(tried.run)), options, say=self.say, teacher=teacher)
        except GateError as error:
            return Attempt(replace(tried, why=str(error).partition(";")[0]), None)  # the rest of the message is a table
        measured = {"value": made["value"], "drop": made["drop"], "p50_ms": latencies(made), "speedup": speedup(made)}
        return Attempt(replace(tried, **measured, why=f"passes: {made['chosen']}"), made)


def shrink(
    place: Path,
    bundle: Path,
    devices: Devices,
    max_drop: float,
    unlabelled: str | None,
    overrides: Sequence[str],
    say: Say,
) -> dict[str, Any]:
    """Make a bundle of the fastest student that is shown to lose at most `max_drop` of the run's metric.

    Args:
        place: the run, whose data must still be where its recipe says.
        bundle: folder to make.
        devices: those that students are trained on.
        max_drop: largest drop of the teacher's metric on its validation split.
        unlabelled: more texts for the students, as in a recipe's `data.unlabelled`.
        overrides: KEY=VALUE overrides of the students' recipes.
        say: receives lines of progress.

    Returns:
        What `bertline export --json` prints for the bundle, with `student`, the one it was made of, and `curve`, all
        that were tried.

    Raises:
        InputError: `place` is not a finished run, or its model has no layers to remove; its data has changed; a
            student's run beside it has another recipe or teacher; an override is of what students keep; or another
            process is shrinking it.
        GateError: no student is shown to stay within `max_drop`; the message lists them in a table.
        PreemptedError: training was asked to stop.
    """
    files.check_new(bundle)
    _refuse_chosen(overrides)
    if place.name in ("", ".."):  # students are named after the run and stored beside it
        place = place.resolve()
    runs.verify(place)
    with _locked(place), _at_work(bundle):
        shrinking = Shrinking(place, bundle, ExportOptions(max_drop), unlabelled, overrides, devices, say)
        largest_first = sizes(encoder.check(RunFolder(place).best))
        origin = sources.read(str(place), None)
        check_examples(origin, shrinking.options)
        check_answers(origin, shrinking.options, shrinking.teacher.outputs)  # otherwise no student could pass
        attempts = shrinking.students(largest_first)
        curve = [one.tried for one in attempts]
        passed = [(tried, made) for tried, made in attempts if made is not None]
        if not passed:
            raise GateError(_none_passed(max_drop, curve))
        fastest, sealed = max(passed, key=lambda one: speedup(one[1]))
        say(f"{bundle}: {fastest.student}")
        files.publish(Path(sealed["bundle"]), bundle)
        return {**sealed, "bundle": str(bundle), "student": fastest.student, "curve": [asdict(one) for one in curve]}


def _refuse_chosen(overrides: Sequence[str]) -> None:
    """Refuse overrides of what students keep, which is chosen here."""
    if chosen := [one for one in overrides if one.startswith("student")]:
        raise InputError(f"--set {chosen[0]}: what students keep is chosen here; a recipe of your own can set it")


def _none_passed(max_drop: float, curve: Sequence[Tried]) -> str:
    return (
        f"no student is shown to lose at most {max_drop:g}; no bundle was made. Tried:\n{table(curve)}\nMore "
        "unlabelled texts (--unlabelled), more epochs (--set training.epochs=N) or a larger --max-drop may help"
    )


@contextmanager
def _at_work(bundle: Path) -> Iterator[None]:
    """Keep exports to the same place from removing the bundles made here, and remove these at the end."""
    files.remove_left(bundle)
    try:
        with files.temporary_folder(bundle):
            yield
    finally:
        files.remove_left(bundle)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Let one process at a time make students of a run, which are stored beside it.

    DeepSpeed's launcher inherits the lock, because ranks that outlive a killed process still write to a student.
    """
    busy = f"{place}: another process is shrinking it; wait for it and its ranks, or end them"
    with files.locked(place.with_name(f".{place.name}.lock"), busy) as stream:
        os.set_inheritable(stream.fileno(), True)
        yield


def sizes(config: dict[str, Any]) -> list[Student]:
    """The students to try: four to one sixths of the layers, the largest first.

    Its layers are spread over the model. Each smaller one lacks the top layers of the one before it: three layers of
    four were better without the top one than without one in the middle (docs/benchmarks.md), as are models that are
    fine-tuned with fewer layers (arXiv:2004.03844).

    Raises:
        InputError: the model has a single layer, an unknown number of layers, or layers that share their weights.
    """
    from bertline.train.distillation.student import spread  # imports torch

    if config["model_type"] == "albert":
        raise InputError("albert: its layers share their weights, so that none can be removed; train another model")
    layers = encoder.layers(config)
    counts = {max(1, round(layers * part / 6)) for part in SIXTHS} & set(range(1, layers))
    if not counts:
        raise InputError(f"{config['model_type']} with {layers} layers: there are none to remove")
    kept = spread(max(counts), config)
    return [Student(layers=kept[:count]) for count in sorted(counts, reverse=True)]


def halved(tried: Tried) -> Student | None:
    """A student with half the attention heads and feed-forward units per layer; None if they cannot be pruned."""
    from bertline.train.distillation import pruning

    config = encoder.check(RunFolder(Path(tried.run)).best)
    if config["model_type"] not in pruning.FAMILIES or config.get("pruned_heads"):
        return None
    heads = config.get("num_attention_heads") or config["n_heads"]
    units = next(config[key] for key in pruning.SIZES if key in config)
    return Student(**tried.kept | {"attention_heads": max(1, heads // 2), "intermediate_size": units // 2})


def named(kept: Student) -> str:
    """The name of a student, by its number of layers and whether they are pruned."""
    count = len(kept.layers or ())
    return f"{count} layer{'s' if count > 1 else ''}{', halved' if kept.is_pruned else ''}"


def distilled(recipe: Path, place: Path, say: Say, devices: Devices) -> Path:
    """The finished run of a student, trained or resumed if need be.

    Raises:
        InputError: as `train.finished`; a run it learned from has been trained again since; or its validation or test
            examples differ from its teacher's.
    """
    folder = recipe.with_suffix("")
    _check_begun_after(recipes.read(recipe), RunFolder(folder))
    try:
        train.finished(recipe, devices, folder, say)
    except PreemptedError:
        raise PreemptedError(f"{folder}: stopped as asked; the same command resumes it") from None
    for split in ("validation", "test"):
        if files.sha256(RunFolder(folder).split(split)) != files.sha256(RunFolder(place).split(split)):
            raise InputError(f"{place}: its data has changed: {folder} has other {split} examples; restore it")
    return folder


def _check_begun_after(recipe: Recipe, student: RunFolder) -> None:
    """Refuse a student that was begun before the runs it learns from finished, since it learned from earlier ones.

    Its recipe cannot tell, because it only names those runs.
    """
    begun = min(_begun(student), default=None)
    for place in {recipe.model, recipe.teacher or recipe.model}:
        if begun and RunFolder(Path(place)).summary.exists() and begun < runs.read_summary(Path(place)).finished:
            stale = f"begun before {place} was finished, as a student of an earlier run there"
            raise InputError(f"{student.path}: {stale}; move it away, or remove it to train again")


def _begun(student: RunFolder) -> Iterator[str]:
    """When a run was begun; if it is unfinished, according to each checkpoint that it may resume from."""
    if student.summary.exists():
        yield runs.read_summary(student.path).started
        return
    for index in student.checkpoints.glob(f"*/{checkpoint.INDEX}"):
        with suppress(DamagedError):  # resuming skips it as well
            yield checkpoint.verify_files(index.parent)["state"]["started"]


def latencies(made: dict[str, Any]) -> dict[str, float]:
    """Median latencies of the chosen candidate, in milliseconds by BATCHxLENGTH."""
    (chosen,) = (one for one in made["candidates"] if one["chosen"])
    return dict(chosen["p50_ms"])


def speedup(made: dict[str, Any]) -> float:
    """How many times as fast as the teacher in PyTorch that candidate is: the geometric mean over all points timed."""
    return geometric_mean(made["pytorch_p50_ms"].values()) / geometric_mean(latencies(made).values())


def table(curve: Sequence[Tried]) -> str:
    """One line per student."""
    width = max(len(one.student) for one in curve)
    return "\n".join(
        f"  {one.student:{width}}  value {one.value:.4f}  drop {one.drop:+.4f}  {one.why}" for one in curve
    )
