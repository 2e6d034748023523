"""`bertline shrink`: the fastest student of a run that is shown to lose no more than asked, as a bundle.

Sizes are tried from the smallest on: a student is cut from the run, distilled from it, and exported with its drop held
to the run itself. The first that passes has the fewest layers that are right alone; then half of what each of these
holds is taken out. Those that are not right alone are tried in a cascade, where they ask the fastest that is, or the
run itself where none is, when they are not sure; of the fastest of these half is taken out as well. The fastest of all
that pass is handed over. Each student is a run beside the teacher's; one that is finished is used as it is, and one
that is not goes on, when the same command is given again. What was exported by then is exported again.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
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
from bertline.export.teacher import Teacher
from bertline.export.terms import Terms
from bertline.launch import train

SIXTHS = range(1, 6)
"""The parts of a model's layers that are tried."""


@dataclass(frozen=True)
class Tried:
    """A point of the curve of size against accuracy."""

    student: str
    """Its name."""
    run: str
    kept: dict[str, Any]
    """As `student` of its recipe."""
    value: float
    """The bundle's; PyTorch's where there is no bundle."""
    drop: float
    p50_ms: dict[str, float] | None
    """None where it was not exported, as the next."""
    speedup: float | None
    """Over the teacher in PyTorch, timed in turns with it: what is timed at another hour is compared by this."""
    why: str


class Attempt(NamedTuple):
    """A student and, where it has passed, what the export of it has answered."""

    tried: Tried
    made: dict[str, Any] | None


class Larger(NamedTuple):
    """Who is asked in cascades."""

    name: str
    bundle: Path


@dataclass(frozen=True)
class Shrinking:
    """A run to be shrunk, and how."""

    place: Path
    """The teacher's run."""
    bundle: Path
    terms: Terms
    unlabelled: str | None
    overrides: Sequence[str]
    ranks: dict[str, Any]
    say: Say

    def students(self, smallest_first: Sequence[Student]) -> list[Attempt]:
        """All tried: alone, then in cascades those that are not right alone, and the fastest of these, halved."""
        alone = list(self.alone(smallest_first))
        larger = self.larger(alone)
        if larger is None:
            return alone
        tried = [one if one.made else self.cascaded(one.tried, larger) for one in alone]
        return [*tried, *self.halved_asking(tried, larger)]

    def alone(self, smallest_first: Sequence[Student]) -> Iterator[Attempt]:
        """From the smallest up to the first that is right, and that one halved."""
        for kept in smallest_first:
            tried = self.learned(kept)
            yield (attempt := self.told(self.attempt(tried)))
            if attempt.made is not None:
                if (less := halved(tried)) is not None:
                    yield self.told(self.attempt(self.learned(less, tried.run)))
                return

    def halved_asking(self, tried: Sequence[Attempt], larger: Larger) -> Iterator[Attempt]:
        """The student of the fastest cascade, halved: it may ask hardly more often."""
        asking = [(speedup(one.made), one.tried) for one in tried if one.made and one.made["cascade"]]
        if asking and (less := halved(whole := max(asking, key=lambda one: one[0])[1])) is not None:
            yield self.cascaded(self.learned(less, whole.run), larger)

    def learned(self, kept: Student, layers_of: str | None = None) -> Tried:
        """Distill a student, of which nothing is known but what it scores in PyTorch.

        Args:
            kept: of the run.
            layers_of: the run of a student that has the same layers, whole, and has learned what it can: pruned, it
                starts from there. None: it is cut from the run.
        """
        self.say(f"{named(kept)}: distilling")
        folder = distilled(self.student(kept, layers_of), self.place, self.say, self.ranks)
        teacher, student = (runs.read_summary(one) for one in (self.place, folder))
        best, value = (float(one.validation[teacher.held_to]) for one in (teacher, student))
        drop = round(best - value, 6)
        why = f"loses {drop:.4f} in PyTorch"
        return Tried(named(kept), str(folder), kept.model_dump(), value, drop, None, None, why)

    def attempt(self, tried: Tried) -> Attempt:
        """Export a student, where it may be right alone."""
        if tried.drop > self.terms.max_drop + ROUNDING:
            return Attempt(replace(tried, why=f"{tried.why} already"), None)
        return self.exported(tried, self.terms, self.teacher)

    def cascaded(self, tried: Tried, larger: Larger) -> Attempt:
        """A student that is not right alone, in a cascade with a larger one."""
        self.say(f"{tried.student}: asking {larger.name} when it is not sure")
        teacher = replace(self.teacher, asked=larger.bundle)
        found = self.exported(tried, replace(self.terms, quick=True), teacher)
        if found.made is None:
            return self.told(Attempt(replace(tried, why=f"{tried.why}; nor does it pass with {larger.name}"), None))
        share = found.made["cascade"]["share"]
        unit = runs.read_summary(Path(tried.run)).tokens.unit
        why = f"{found.tried.why}, which asks {larger.name} about {share:.0%} of the {unit}"
        return self.told(Attempt(replace(found.tried, why=why), found.made))

    def told(self, attempt: Attempt) -> Attempt:
        """The same, said."""
        self.say(f"{attempt.tried.student}: {attempt.tried.why}")
        return attempt

    @cached_property
    def teacher(self) -> Teacher:
        """What all students are held to."""
        return Teacher(str(self.place))

    def larger(self, alone: Sequence[Attempt]) -> Larger | None:
        """Who is asked in cascades: the fastest that is right alone, of the students or else the run itself.

        None where that is none, or where answers are not one label each.
        """
        if runs.read_summary(self.place).problem_type != "single_label_classification":
            return None
        passed = [(speedup(made), tried.student, made["bundle"]) for tried, made in alone if made is not None]
        if passed:
            _, name, bundle = max(passed)
            return Larger(name, Path(bundle))
        return self.whole()

    def whole(self) -> Larger | None:
        """The run itself as a bundle; None where no candidate of it passes."""
        self.say(f"{self.place}: exporting it, to be asked by students that are not right alone")
        bundle = self.unseen(self.place)
        try:
            export(str(self.place), bundle, replace(self.terms, quick=True), say=self.say)
        except GateError as error:
            self.say(f"no cascades: {error}")
            return None
        return Larger(str(self.place), bundle)

    def unseen(self, run: Path) -> Path:
        """Where a bundle of a run is made that may not be handed over: beside the one that is, as it names its source
        relative to itself, and under a name that `files.remove_left` knows: what `tempfile` might make of it.
        """
        digest = hashlib.sha256(run.name.encode()).hexdigest()
        return self.bundle.with_name(files.temporary_prefix(self.bundle) + digest[:8])

    def student(self, kept: Student, layers_of: str | None = None) -> Path:
        """Write the recipe of a student beside the teacher's run, where its own run will be, and return its path.

        Args:
            kept: of the run.
            layers_of: as `attempt` takes it.
        """
        raw = recipes.read(RunFolder(self.place).recipe).model_dump(mode="json")
        short = named(kept).replace(", ", "-").replace(" ", "-")
        path = self.place.with_name(f"{self.place.name}-{short}.yaml")
        raw["name"] = f"{raw['name']}-{short}"
        raw["model"] = raw["teacher"] = str(self.place)
        raw["student"] = kept.model_dump()
        raw["data"]["unlabelled"] = self.unlabelled
        raw["training"]["freeze"]["layers"] = 0  # the student's are others
        raw["training"] |= {"label_smoothing": 0.0, "class_weights": None}  # of labels; it learns from the teacher
        recipes.save(Recipe.model_validate(raw), path)
        recipe = recipes.load(path, self.overrides)
        if layers_of is not None:
            recipe = recipes.with_settings(recipe, {"model": layers_of, "student.layers": None})
        recipes.save(recipe, path)
        return path

    def exported(self, tried: Tried, terms: Terms, teacher: Teacher) -> Attempt:
        """The student as a bundle of a name that nobody sees, if it passes."""
        try:
            made = export(tried.run, self.unseen(Path(tried.run)), terms, say=self.say, teacher=teacher)
        except GateError as error:
            return Attempt(replace(tried, why=str(error).partition(";")[0]), None)  # a table follows
        measured = {"value": made["value"], "drop": made["drop"], "p50_ms": latencies(made), "speedup": speedup(made)}
        return Attempt(replace(tried, **measured, why=f"passes: {made['chosen']}"), made)


def shrink(
    place: Path,
    bundle: Path,
    max_drop: float,
    unlabelled: str | None,
    overrides: Sequence[str],
    say: Say,
    **ranks: Any,
) -> dict[str, Any]:
    """Make a bundle of the fastest student that is shown to lose at most `max_drop` of the run's metric.

    Args:
        place: the run, whose data must still be where its recipe says.
        bundle: to be made.
        max_drop: of the teacher's metric on its validation split.
        unlabelled: texts for the students, as `data.unlabelled` of a recipe.
        overrides: KEY=VALUE of the students' recipes.
        say: takes progress.
        ranks: gpus, ranks or hostfile, as `train.start` takes them.

    Returns:
        What `bertline export --json` prints of the bundle; `student`, of whom it is; `curve`, all who were tried.

    Raises:
        InputError: no finished run, or of a model that has no layers to take out; its data has changed; a student's run
            beside it is of another recipe or of another teacher; or another process shrinks it.
        GateError: no student is shown to lose so little; the message is a table of them.
        PreemptedError: training was asked to stop.
    """
    files.check_new(bundle)
    if place.name in ("", ".."):  # students are named after the run, and lie beside it
        place = place.resolve()
    runs.verify(place)
    with _locked(place), _at_work(bundle):
        shrinking = Shrinking(place, bundle, Terms(max_drop), unlabelled, overrides, ranks, say)
        smallest_first = sizes(encoder.check(RunFolder(place).best))
        origin = sources.read(str(place), None)
        check_examples(origin, shrinking.terms)
        check_answers(origin, shrinking.terms, shrinking.teacher.answers)  # no student can be shown to be right else
        attempts = shrinking.students(smallest_first)
        curve = [one.tried for one in attempts]
        passed = [(tried, made) for tried, made in attempts if made is not None]
        if not passed:
            raise GateError(_none_passed(max_drop, curve))
        fastest, sealed = max(passed, key=lambda one: speedup(one[1]))
        say(f"{bundle}: {fastest.student}")
        files.publish(Path(sealed["bundle"]), bundle)
        return {**sealed, "bundle": str(bundle), "student": fastest.student, "curve": [asdict(one) for one in curve]}


def _none_passed(max_drop: float, curve: Sequence[Tried]) -> str:
    return (
        f"no student is shown to lose at most {max_drop:g}; no bundle was made. Tried:\n{table(curve)}\nMore "
        "unlabelled texts (--unlabelled), more epochs (--set training.epochs=N) or a larger --max-drop would help"
    )


@contextmanager
def _at_work(bundle: Path) -> Iterator[None]:
    """Whoever exports to the same place leaves alone what is made for it here; none of that stays afterwards."""
    files.remove_left(bundle)
    try:
        with files.temporary_folder(bundle):
            yield
    finally:
        files.remove_left(bundle)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time makes students of a run, which lie beside it.

    DeepSpeed's launcher inherits the lock: ranks that are left of a process that was killed still write to a student.
    """
    taken = f"{place}: another process shrinks it; wait for it and its ranks, or end them"
    with files.locked(place.with_name(f".{place.name}.lock"), taken) as stream:
        os.set_inheritable(stream.fileno(), True)
        yield


def sizes(config: dict[str, Any]) -> list[Student]:
    """What is tried of a model: sixths of its layers, from all over, the fewest first.

    Raises:
        InputError: it has a single layer, none that is known, or such as share their weights.
    """
    from bertline.train.distillation.student import spread  # imports torch

    if config["model_type"] == "albert":
        raise InputError("albert: its layers share their weights, so that none can be taken out; train another model")
    layers = encoder.layers(config)
    counts = {max(1, round(layers * part / 6)) for part in SIXTHS} & set(range(1, layers))
    if not counts:
        raise InputError(f"{config['model_type']} of {layers} layers: there are none to take out")
    return [Student(layers=spread(count, config)) for count in sorted(counts)]


def halved(tried: Tried) -> Student | None:
    """A student with half of the heads and feed-forward units of its layers; None where these cannot be told."""
    from bertline.train.distillation import pruning

    config = encoder.check(RunFolder(Path(tried.run)).best)
    if config["model_type"] not in pruning.FAMILIES or config.get("pruned_heads"):
        return None
    heads = config.get("num_attention_heads") or config["n_heads"]
    units = next(config[key] for key in pruning.SIZES if key in config)
    return Student(**tried.kept | {"attention_heads": max(1, heads // 2), "intermediate_size": units // 2})


def named(kept: Student) -> str:
    """A student by its layers, and whether they are whole."""
    count = len(kept.layers or ())
    return f"{count} layer{'s' if count > 1 else ''}{', halved' if kept.is_pruned else ''}"


def distilled(recipe: Path, place: Path, say: Say, ranks: dict[str, Any]) -> Path:
    """The finished run of a student, trained or gone on with where it is not.

    Raises:
        InputError: as `train.finished`; it learned from what a run was before it was trained again; or it is held
            against other examples than its teacher.
    """
    folder = recipe.with_suffix("")
    _check_begun_after(recipes.read(recipe), RunFolder(folder))
    try:
        train.finished(recipe, folder, say, **ranks)
    except PreemptedError:
        raise PreemptedError(f"{folder}: stopped as asked; the same command goes on") from None
    for split in ("validation", "test"):
        if files.sha256(RunFolder(folder).split(split)) != files.sha256(RunFolder(place).split(split)):
            raise InputError(f"{place}: its data has changed: {folder} was held to other {split} examples; restore it")
    return folder


def _check_begun_after(recipe: Recipe, student: RunFolder) -> None:
    """Refuse a student that was begun before the runs it learns from were finished: it is of what they were before.

    Its recipe does not tell: it names those runs, whatever they were trained with.
    """
    begun = min(_begun(student), default=None)
    for place in {recipe.model, recipe.teacher or recipe.model}:
        if begun and RunFolder(Path(place)).summary.exists() and begun < runs.read_summary(Path(place)).finished:
            was = f"begun before {place} was finished, as a student of what was there then"
            raise InputError(f"{student.path}: {was}; move it away, or remove it to train again")


def _begun(student: RunFolder) -> Iterator[str]:
    """When a run was begun; as its checkpoints tell, where it is not finished: they are gone on from."""
    if student.summary.exists():
        yield runs.read_summary(student.path).started
        return
    for index in student.checkpoints.glob(f"*/{checkpoint.INDEX}"):
        with suppress(DamagedError):  # it is passed over then, too
            yield checkpoint.verify_files(index.parent)["state"]["started"]


def latencies(made: dict[str, Any]) -> dict[str, float]:
    """Of the candidate that was chosen, in milliseconds by BATCHxLENGTH."""
    (chosen,) = (one for one in made["candidates"] if one["chosen"])
    return dict(chosen["p50_ms"])


def speedup(made: dict[str, Any]) -> float:
    """How many times as fast as the teacher in PyTorch that candidate is, over all that was timed."""
    return geometric_mean(made["pytorch_p50_ms"].values()) / geometric_mean(latencies(made).values())


def table(curve: Sequence[Tried]) -> str:
    """A line for each student."""
    width = max(len(one.student) for one in curve)
    return "\n".join(
        f"  {one.student:{width}}  value {one.value:.4f}  drop {one.drop:+.4f}  {one.why}" for one in curve
    )
