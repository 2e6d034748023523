"""A teacher: a trained model whose outputs a student learns, and how it tokenizes texts.

A teacher reads as it was trained to read. If the student reads the same tokens, the teacher computes an output for each
of the student's windows. If not (another tokenizer, more of a long text), it computes one output per text, which is
enough for a class or a number, but not for entities or answers.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bertline.artifacts import bundle, encoder, files, places
from bertline.artifacts import run as runs
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import TaskSettings
from bertline.models import pytorch
from bertline.tasks import catalog, heads
from bertline.tasks.task import Task
from bertline.tasks.text_classification import TextClassification
from bertline.train import model, ranks
from bertline.train.data.prepared import Prepared
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation.relations import Relations


@dataclass(frozen=True)
class Teacher:
    """A model trained for the student's task."""

    place: str
    folder: Path
    """The model's or bundle's folder, which also holds a tokenizer."""
    task: Task
    """The task that it was trained for, with its tokens and labels."""
    sha256: str
    """The SHA-256 of its weights, or of a bundle's manifest."""
    tokenizer: Path
    """The folder of its tokenizer."""

    @property
    def is_bundle(self) -> bool:
        """Whether it is a bundle, with an ONNX model, rather than a PyTorch model."""
        return (self.folder / bundle.MANIFEST).is_file()


def find(recipe: Recipe, student: Task, cache: Path) -> Teacher:
    """Find the teacher that a recipe names, on every rank.

    Outputs without names of their own take the student's labels, in the recipe's order if it lists them.

    Args:
        recipe: the student's recipe.
        student: the student's task.
        cache: where the teacher's tokenizer is kept.

    Raises:
        InputError: it does not exist, or its task, problem type, inputs or labels differ from the student's.
        DamagedError: a bundle's files have changed.
    """
    assert recipe.teacher is not None
    labels = student.indexed(recipe.data.label_names or student.labels)
    teacher = _found(recipe.teacher, student.settings.model_copy(update={"labels": labels}), cache)
    faults = [
        f"teacher: {recipe.teacher} has {name} {theirs!r}; the student is to learn {own!r}"
        for name in ("task", "problem_type", "inputs", "labels")
        if (theirs := getattr(teacher.task.settings, name)) != (own := getattr(student.settings, name))
    ]
    if faults:
        raise InputError(*faults)
    return teacher


def reads_alike(teacher: Teacher, student: Task, tokenizer_folder: Path) -> bool:
    """Whether a teacher reads the same tokens as its student.

    Args:
        teacher: a trained model.
        student: the student's task.
        tokenizer_folder: the student's tokenizer.

    Raises:
        InputError: it does not, and the student learns from the outputs for each token.
    """
    own, students = (files.sha256(folder / "tokenizer.json") for folder in (teacher.tokenizer, tokenizer_folder))
    if own == students and teacher.task.settings.tokens == student.settings.tokens:
        return True
    if not isinstance(student, TextClassification):
        raise InputError(
            f"teacher: {teacher.place} tokenizes texts differently from the student, which learns from each token's "
            "output; give both the same tokenizer, tokens.max_length and tokens.stride"
        )
    return False


def beside(
    teacher: Teacher,
    student: nn.Module,
    ready: Prepared,
    tokenizer_folder: Path,
    weight: float,
    precision: Precision,
) -> Relations:
    """Load a teacher that runs alongside its student, for token relations, which are too large to cache.

    Args:
        teacher: a PyTorch model that reads the same tokens as the student.
        student: the module that DeepSpeed's engine holds.
        ready: the student's prepared data.
        tokenizer_folder: the student's tokenizer.
        weight: the weight of this loss.
        precision: the precision that the teacher computes in.

    Raises:
        InputError: the teacher is a bundle, or reads other tokens; or as `Relations`.
    """
    if teacher.is_bundle:
        raise InputError(
            f"distillation.relations: {teacher.place} is a bundle, which gives only logits; name a run or a model as "
            "teacher, or leave it out"
        )
    if not reads_alike(teacher, ready.splits.task, tokenizer_folder):
        raise InputError(
            f"distillation.relations: {teacher.place} tokenizes texts differently from the student; give both the "
            "same tokenizer, tokens.max_length and tokens.stride, or leave it out"
        )
    loaded = pytorch.load(teacher.folder, teacher.task.architecture).to(ranks.device())
    return Relations(student, loaded, weight, precision)


def _found(place: str, asked: TaskSettings, cache: Path) -> Teacher:
    """Describe the teacher at a place: runs and bundles record their task; other models show it by their head."""
    local = places.expanded(place)
    if (local / bundle.MANIFEST).is_file():
        settings, sha256 = heads.named_as(asked, bundle.verify(local).alone), files.sha256(local / bundle.MANIFEST)
        return Teacher(place, local, catalog.make(settings), sha256, _tokenizer(local, cache))
    folder = runs.model(place)
    config, sha256 = encoder.check(folder), encoder.weights_sha256(folder)
    if RunFolder(local).summary.exists():
        settings = heads.named_as(asked, runs.read_summary(local).alone)
    else:
        settings = heads.settings(config, asked)
    return Teacher(place, folder, catalog.make(settings), sha256, _tokenizer(folder, cache))


def _tokenizer(folder: Path, cache: Path) -> Path:
    return ranks.from_first(lambda: model.keep_tokenizer(folder, cache))
