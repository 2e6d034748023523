"""A teacher: a trained model whose outputs a student learns. It is asked once; what it said is kept on disk.

It reads as it was trained to read. Where that is what the student reads too, each window of the student's is answered;
where it reads otherwise (another tokenizer, more of a long text), each text is, which a class or a number is of and an
entity or an answer is not.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn

import bertline
from bertline.artifacts import bundle, encoder, files, places
from bertline.artifacts import run as runs
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import TaskSettings
from bertline.serve.engine import Engine
from bertline.tasks import catalog
from bertline.tasks.task import Output, Task
from bertline.tasks.text_classification import TextClassification
from bertline.tasks.tokens import Encoded, Tokenizer
from bertline.train import evaluation, model, preemption, ranks, watchdog
from bertline.train.data.mapped import Outputs, batched
from bertline.train.data.prepared import Prepared
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation.relations import Relations
from bertline.train.model import AUTOCAST
from bertline.train.progress import Progress

FILE = "outputs.arrow"
CODE = ("distillation/teacher.py", "evaluation.py", "data/mapped.py")
"""What outputs depend on, of ours."""
ASKING = "asking the teacher"
AT_ONCE = 512
"""Windows, or texts, that are asked about and kept at once: until then it is not seen that the run is asked to stop."""


Answering = Callable[[Sequence[Encoded]], list[Output]]
"""What a teacher gives for windows, on every rank."""


@dataclass(frozen=True)
class Teacher:
    """A trained model of the student's task."""

    place: str
    folder: Path
    """A model's, or a bundle's; both hold the tokenizer."""
    task: Task
    """As it was trained for it: how it reads, what it tells apart."""
    sha256: str
    """Of what it computes."""

    @property
    def is_bundle(self) -> bool:
        """Whether an ONNX model answers, and not PyTorch's."""
        return (self.folder / bundle.MANIFEST).is_file()


def find(recipe: Recipe, student: Task) -> Teacher:
    """The teacher that a recipe names.

    Raises:
        InputError: it is not there, or does another thing than the student is to learn.
        DamagedError: a bundle is not as it was sealed.
    """
    assert recipe.teacher is not None
    teacher = _found(recipe.teacher, student.settings)
    faults = [
        f"teacher: {recipe.teacher} has {name} {theirs!r}; the student is to learn {own!r}"
        for name in ("task", "problem_type", "labels")
        if (theirs := getattr(teacher.task.settings, name)) != (own := getattr(student.settings, name))
    ]
    if faults:
        raise InputError(*faults)
    return teacher


def outputs(
    teacher: Teacher,
    ready: Prepared,
    tokenizer_folder: Path,
    precision: Precision,
    batch_size: int,
    cache: Path,
    progress: Progress,
) -> Outputs:
    """What the teacher gives for each window of the training texts, labelled or not, on every rank.

    Args:
        teacher: who is asked, if nobody has asked it the same before.
        ready: what the student reads.
        tokenizer_folder: the student's.
        precision: that the teacher computes in; a bundle's has its own.
        batch_size: windows a rank computes at once.
        cache: where what it says is kept.
        progress: shows how far it is.

    Raises:
        InputError: it reads otherwise than the student, which does not do for its task; there is no room to write.
        PreemptedError: the run was asked to stop.
    """
    with model.tokenizer_folder(teacher.folder) as own:
        alike = _reads_alike(teacher, own, ready.splits.task, tokenizer_folder)
        folder = cache / f"teacher-{_fingerprint(teacher, own, ready, tokenizer_folder, precision)}"
        if not ranks.from_first(folder.exists):
            progress.say(f"asking {teacher.place} about {len(ready.train.windows):,} windows of text")
            tokenizer = teacher.task.tokenizer(own)
            answering = (
                _engine(teacher, progress)
                if teacher.is_bundle
                else _model(teacher, tokenizer, precision, batch_size, progress)
            )
            answering = _keeping(answering, folder)
            _write(folder, _of_windows(answering, ready) if alike else _of_texts(answering, ready, teacher, tokenizer))
            if ranks.is_first():
                for part in folder.parent.glob(f"{folder.name}-part-*"):
                    files.remove_folder(part)
    return Outputs(folder / FILE)


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
    with model.tokenizer_folder(teacher.folder) as own:
        if not _reads_alike(teacher, own, ready.splits.task, tokenizer_folder):
            raise InputError(
                f"distillation.relations: {teacher.place} reads texts as other tokens than the student; give both the "
                "same tokenizer, tokens.max_length and tokens.stride, or leave it out"
            )
    loaded = model.from_folder(teacher.folder, teacher.task.architecture, trained=True).to(ranks.device())
    return Relations(student, loaded, weight, precision)


def _of_windows(answering: Answering, ready: Prepared) -> Iterator[Output]:
    """The output for each of the student's windows."""
    windows = ready.train.windows
    for first in range(0, len(windows), AT_ONCE):
        yield from answering(windows[first : first + AT_ONCE])


def _of_texts(answering: Answering, ready: Prepared, teacher: Teacher, tokenizer: Tokenizer) -> Iterator[Output]:
    """The output for the text that each of the student's windows is of, all of the teacher's windows taken together."""
    assert isinstance(teacher.task, TextClassification)
    of_text: list[Output] = []
    for some in batched(itertools.chain(ready.splits.train, ready.splits.unlabelled), AT_ONCE):
        windows = tokenizer.encode([example.texts for example in some])
        of_text += teacher.task.pooled(len(some), windows, answering(windows))
    yield from (of_text[window.text] for window in ready.train.windows)


def _model(
    teacher: Teacher, tokenizer: Tokenizer, precision: Precision, batch_size: int, progress: Progress
) -> Answering:
    """A PyTorch model, on each rank's device; each computes its share."""
    loaded = model.from_folder(teacher.folder, teacher.task.architecture, trained=True).to(ranks.device())
    autocast = torch.autocast(ranks.device().type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)

    def answer(windows: Sequence[Encoded]) -> list[Output]:
        with autocast:
            return evaluation.outputs(loaded, windows, ASKING, tokenizer, batch_size, progress)

    return answer


def _engine(teacher: Teacher, progress: Progress) -> Answering:
    """A bundle's model, on each rank's cores; each computes its share."""
    engine = Engine.load(teacher.folder, torch.get_num_threads())
    rank, count = dist.get_rank(), dist.get_world_size()

    def answer(windows: Sequence[Encoded]) -> list[Output]:
        turns, found = range(0, len(windows), count), []
        for first in progress.track(turns, len(turns), ASKING):
            watchdog.beat(f"{ASKING}, window {first}")  # as often on every rank, whose counts are compared
            found += engine.outputs(windows[first + rank : first + rank + 1])
        shares: list[Any] = [None] * count
        torch.distributed.all_gather_object(shares, found)
        return [shares[index % count][index // count] for index in range(len(windows))]

    return answer


def _keeping(answering: Answering, folder: Path) -> Answering:
    """The same, with each answer kept, so that a run that is stopped before all are there goes on after the last.

    The parts lie beside the folder that they are for. Another run that makes the same may remove them at any time.

    Raises:
        PreemptedError: from what is made: a rank was asked to stop.
    """
    calls = itertools.count()

    def answer(windows: Sequence[Encoded]) -> list[Output]:
        part = folder.with_name(f"{folder.name}-part-{next(calls)}")
        if (kept := ranks.from_first(lambda: _kept(part))) is not None:
            return kept
        said = answering(windows)
        if ranks.is_first():
            _make(part, said)
        if ranks.sum_over_ranks(torch.tensor(float(preemption.asked.is_set()), device=ranks.device())):
            raise PreemptedError(f"{ASKING}: stopped as asked; what it has said so far is kept in {folder.parent}")
        return said

    return answer


def _kept(part: Path) -> list[Output] | None:
    try:
        return [output.copy() for output in Outputs(part / FILE)]  # the file may go
    except FileNotFoundError:
        return None


def _make(folder: Path, computed: Iterable[Output]) -> None:
    def fill(temporary: Path) -> None:
        Outputs.write(temporary / FILE, computed)

    files.make_once(folder, fill)


def _found(place: str, student: TaskSettings) -> Teacher:
    """What a place holds, and what it was trained for: runs and bundles say so; of another model, its head tells."""
    local = places.expanded(place)
    if (local / bundle.MANIFEST).is_file():
        settings = bundle.verify(local).alone
        return Teacher(place, local, catalog.make(settings), files.sha256(local / bundle.MANIFEST))
    folder = runs.model(place)
    config, sha256 = encoder.check(folder), encoder.weights_sha256(folder)
    if RunFolder(local).summary.exists():
        return Teacher(place, folder, catalog.make(runs.read_summary(local).alone), sha256)
    length = min(student.tokens.max_length, encoder.max_tokens(config))
    settings = student.model_copy(
        update={
            "labels": encoder.label_names(config) if student.labels else [],
            "tokens": student.tokens.model_copy(update={"max_length": length}),
        }
    )
    return Teacher(place, folder, catalog.make(settings), sha256)


def _reads_alike(teacher: Teacher, own: Path, student: Task, tokenizer_folder: Path) -> bool:
    """Whether a teacher reads the very tokens that its student does."""
    same_tokenizer = files.sha256(own / "tokenizer.json") == files.sha256(tokenizer_folder / "tokenizer.json")
    if same_tokenizer and teacher.task.settings.tokens == student.settings.tokens:
        return True
    if not isinstance(student, TextClassification):
        raise InputError(
            f"teacher: {teacher.place} reads texts as other tokens than the student, which is to learn of each token; "
            "give both the same tokenizer and the same tokens.max_length and tokens.stride"
        )
    return False


def _write(folder: Path, computed: Iterator[Output]) -> None:
    """Compute on all ranks; the first writes.

    Raises:
        InputError: there is no room.
    """
    if ranks.is_first():
        try:
            _make(folder, computed)
        except OSError as error:
            raise InputError(f"{folder}: the teacher's outputs could not be written ({error}); make room") from error
    for _ in computed:  # ranks compute together, whoever writes
        pass
    dist.barrier()


def _fingerprint(teacher: Teacher, own: Path, ready: Prepared, tokenizer: Path, precision: Precision) -> str:
    package = Path(bertline.__file__).parent
    made_of = {
        "teacher": teacher.sha256,
        "tokenizers": [files.sha256(folder / "tokenizer.json") for folder in (own, tokenizer)],
        "settings": [task.settings.model_dump(mode="json") for task in (teacher.task, ready.splits.task)],
        "texts": ready.splits.fingerprint,
        "precision": precision,
        "code": [files.sha256(package / "train" / name) for name in CODE],
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
