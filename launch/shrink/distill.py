"""Makes the runs of students beside their teacher's, or takes those that are there and still belong to it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from bertline.artifacts import checkpoint, files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import DamagedError, InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe, Student
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.launch import train
from bertline.launch.devices import Devices
from bertline.launch.shrink.results import Tried
from bertline.launch.shrink.students import named


@dataclass(frozen=True)
class Distillation:
    """How students learn from a run."""

    place: Path
    """The teacher's run."""
    devices: Devices
    unlabelled: str | None
    overrides: Sequence[str]
    say: Say

    def learned(self, kept: Student, base: Tried | None = None) -> Tried:
        """Distill a student and score it in PyTorch.

        Args:
            kept: what the student keeps of the run.
            base: the student that it is cut or pruned from; None if that is the run itself.
        """
        self.say(f"{named(kept)}: distilling")
        folder = self.finished(self.recipe(kept, base))
        teacher, student = (runs.read_summary(one) for one in (self.place, folder))
        best, value = (float(one.validation[teacher.held_to]) for one in (teacher, student))
        drop = round(best - value, 6)
        why = f"loses {drop:.4f} in PyTorch"
        return Tried(named(kept), str(folder), kept.model_dump(), value, drop, None, None, why)

    def recipe(self, kept: Student, base: Tried | None = None) -> Path:
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

    def finished(self, recipe: Path) -> Path:
        """The finished run of a student, trained or resumed if need be.

        Raises:
            InputError: as `train.finished`; a run it learned from has been trained again since; or its validation or
                test examples differ from its teacher's.
        """
        folder = recipe.with_suffix("")
        _check_begun_after(recipes.read(recipe), RunFolder(folder))
        try:
            train.finished(recipe, self.devices, folder, self.say)
        except PreemptedError:
            raise PreemptedError(f"{folder}: stopped as asked; the same command resumes it") from None
        for split in ("validation", "test"):
            if files.sha256(RunFolder(folder).split(split)) != files.sha256(RunFolder(self.place).split(split)):
                changed = f"its data has changed: {folder} has other {split} examples; restore it"
                raise InputError(f"{self.place}: {changed}")
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
