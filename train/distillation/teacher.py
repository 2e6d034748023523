"""A teacher: a trained model whose outputs a student learns, and how it reads.

It reads as it was trained to read. Where that is what the student reads too, each window of the student's is answered;
where it reads otherwise (another tokenizer, more of a long text), each text is, which a class or a number is of and an
entity or an answer is not.
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
from bertline.tasks import catalog
from bertline.tasks.task import Task
from bertline.tasks.text_classification import TextClassification
from bertline.train import model, ranks
from bertline.train.data.prepared import Prepared
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation.relations import Relations


@dataclass(frozen=True)
class Teacher:
    """A trained model of the student's task."""

    place: str
    folder: Path
    """A model's, or a bundle's; both hold the tokenizer."""
    task: Task
    """As it was trained for it: how it reads, what it tells apart."""
    sha256: str
    """Of its weights, or of a bundle's manifest."""
    tokenizer: Path
    """The folder of its tokenizer."""

    @property
    def is_bundle(self) -> bool:
        """Whether an ONNX model answers, and not PyTorch's."""
        return (self.folder / bundle.MANIFEST).is_file()


def find(recipe: Recipe, student: Task, cache: Path) -> Teacher:
    """The teacher that a recipe names, on every rank.

    Args:
        recipe: of the student.
        student: what is to be learned.
        cache: where its tokenizer is kept.

    Raises:
        InputError: it is not there, or does another thing than the student is to learn.
        DamagedError: a bundle is not as it was sealed.
    """
    assert recipe.teacher is not None
    teacher = _found(recipe.teacher, student.settings, cache)
    faults = [
        f"teacher: {recipe.teacher} has {name} {theirs!r}; the student is to learn {own!r}"
        for name in ("task", "problem_type", "labels")
        if (theirs := getattr(teacher.task.settings, name)) != (own := getattr(student.settings, name))
    ]
    if faults:
        raise InputError(*faults)
    return teacher


def reads_alike(teacher: Teacher, student: Task, tokenizer_folder: Path) -> bool:
    """Whether a teacher reads the very tokens that its student does.

    Args:
        teacher: a trained model.
        student: what is to be learned.
        tokenizer_folder: the student's.

    Raises:
        InputError: it does not, and of such a task each token is asked about.
    """
    own, students = (files.sha256(folder / "tokenizer.json") for folder in (teacher.tokenizer, tokenizer_folder))
    if own == students and teacher.task.settings.tokens == student.settings.tokens:
        return True
    if not isinstance(student, TextClassification):
        raise InputError(
            f"teacher: {teacher.place} reads texts as other tokens than the student, which is to learn of each token; "
            "give both the same tokenizer and the same tokens.max_length and tokens.stride"
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
    """A teacher that computes beside its student, for what is too much to keep.

    Args:
        teacher: a PyTorch model that reads what the student reads.
        student: as DeepSpeed's engine holds it.
        ready: what the student reads.
        tokenizer_folder: the student's.
        weight: of the loss.
        precision: that the teacher computes in.

    Raises:
        InputError: it is a bundle, or reads otherwise; or as `Relations`.
    """
    if teacher.is_bundle:
        raise InputError(f"distillation.relations: {teacher.place} is a bundle, of which only logits are known")
    if not reads_alike(teacher, ready.splits.task, tokenizer_folder):
        raise InputError(
            f"distillation.relations: {teacher.place} reads texts as other tokens than the student; give both the "
            "same tokenizer, tokens.max_length and tokens.stride, or leave it out"
        )
    loaded = pytorch.load(teacher.folder, teacher.task.architecture).to(ranks.device())
    return Relations(student, loaded, weight, precision)


def _found(place: str, student: TaskSettings, cache: Path) -> Teacher:
    """What a place holds, and what it was trained for: runs and bundles say so; of another model, its head tells."""
    local = places.expanded(place)
    if (local / bundle.MANIFEST).is_file():
        settings, sha256 = bundle.verify(local).alone, files.sha256(local / bundle.MANIFEST)
        return Teacher(place, local, catalog.make(settings), sha256, _tokenizer(local, cache))
    folder = runs.model(place)
    config, sha256 = encoder.check(folder), encoder.weights_sha256(folder)
    if RunFolder(local).summary.exists():
        return Teacher(place, folder, catalog.make(runs.read_summary(local).alone), sha256, _tokenizer(folder, cache))
    length = min(student.tokens.max_length, encoder.max_tokens(config))
    settings = student.model_copy(
        update={
            "labels": encoder.label_names(config) if student.labels else [],
            "tokens": student.tokens.model_copy(update={"max_length": length}),
        }
    )
    return Teacher(place, folder, catalog.make(settings), sha256, _tokenizer(folder, cache))


def _tokenizer(folder: Path, cache: Path) -> Path:
    return ranks.from_first(lambda: model.keep_tokenizer(folder, cache))
