"""A teacher: a trained model whose outputs a student learns. It is asked once; what it said is kept on disk.

It reads as it was trained to read. Where that is what the student reads too, each window of the student's is answered;
where it reads otherwise (another tokenizer, more of a long text), each text is, which a class or a number is of and an
entity or an answer is not.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import deepspeed.comm as dist
import torch
from torch import nn

import bertline
from bertline.artifacts import encoder, files
from bertline.artifacts import run as runs
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe import Recipe
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import TaskSettings
from bertline.tasks import catalog
from bertline.tasks.task import Output, Task
from bertline.tasks.text_classification import TextClassification
from bertline.tasks.tokens import Encoded, Tokenizer
from bertline.train import evaluation, model, ranks
from bertline.train.deepspeed_config import Precision
from bertline.train.mapped import Outputs, batched
from bertline.train.memory import AUTOCAST
from bertline.train.prepared import Prepared
from bertline.train.progress import Progress

FILE = "outputs.arrow"
AT_ONCE = 16_384
"""Windows whose outputs are held in memory."""


@dataclass(frozen=True)
class Teacher:
    """A trained model of the student's task."""

    place: str
    folder: Path
    task: Task
    """As it was trained for it: how it reads, what it tells apart."""


def find(recipe: Recipe, student: Task) -> Teacher:
    """The teacher that a recipe names.

    Raises:
        InputError: it is not there, or does another thing than the student is to learn.
    """
    assert recipe.teacher is not None
    folder = runs.model(recipe.teacher)
    teacher = Teacher(recipe.teacher, folder, catalog.make(_settings(recipe.teacher, folder, student.settings)))
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
        precision: that the teacher computes in.
        batch_size: windows a rank computes at once.
        cache: where what it says is kept.
        progress: shows how far it is.

    Raises:
        InputError: it reads otherwise than the student, which does not do for its task; there is no room to write.
    """
    with model.tokenizer_folder(teacher.folder) as own:
        alike = _reads_alike(teacher, own, ready.splits.task, tokenizer_folder)
        folder = cache / f"teacher-{_fingerprint(teacher, own, ready, tokenizer_folder, precision)}"
        if not ranks.from_first(folder.exists):
            loaded = model.from_folder(teacher.folder, teacher.task.architecture, trained=True)
            asked = Asked(loaded.to(ranks.device()), teacher.task.tokenizer(own), precision, batch_size, progress)
            _write(folder, asked.windows(ready) if alike else asked.texts(ready, teacher.task))
    return Outputs(folder / FILE)


@dataclass(frozen=True)
class Asked:
    """A teacher in memory, and how it is asked."""

    model: nn.Module
    tokenizer: Tokenizer
    precision: Precision
    batch_size: int
    progress: Progress

    def windows(self, ready: Prepared) -> Iterator[Output]:
        """Its output for each of the student's windows."""
        windows = ready.train.windows
        for first in range(0, len(windows), AT_ONCE):
            yield from self._of(windows[first : first + AT_ONCE])

    def texts(self, ready: Prepared, task: Task) -> Iterator[Output]:
        """Its output for the text that each of the student's windows is of, all of its own windows taken together."""
        assert isinstance(task, TextClassification)
        of_text: list[Output] = []
        for some in batched(chain(ready.splits.train, ready.splits.unlabelled), AT_ONCE):
            windows = self.tokenizer.encode([example.texts for example in some])
            of_text += task.pooled(len(some), windows, self._of(windows))
        yield from (of_text[window.text] for window in ready.train.windows)

    def _of(self, windows: Sequence[Encoded]) -> list[Output]:
        autocast = torch.autocast(ranks.device().type, AUTOCAST.get(self.precision), enabled=self.precision in AUTOCAST)
        with autocast:
            return evaluation.outputs(
                self.model, windows, "asking the teacher", self.tokenizer, self.batch_size, self.progress
            )


def _settings(place: str, folder: Path, student: TaskSettings) -> TaskSettings:
    """What a teacher was trained for: a run has written it down; of another model, what its head tells."""
    if RunFolder(Path(place).expanduser()).summary.exists():
        return runs.read_summary(Path(place).expanduser()).alone
    config = encoder.check(folder)
    names = config.get("id2label") or {}
    length = min(student.tokens.max_length, encoder.max_tokens(config))
    return student.model_copy(
        update={
            "labels": [str(names[key]) for key in sorted(names, key=int)] if student.labels else [],
            "tokens": student.tokens.model_copy(update={"max_length": length}),
        }
    )


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
            with files.new_folder(folder) as temporary:
                Outputs.write(temporary / FILE, computed)
        except OSError as error:
            raise InputError(f"{folder}: the teacher's outputs could not be written ({error}); make room") from error
    else:
        for _ in computed:
            pass
    dist.barrier()


def _fingerprint(teacher: Teacher, own: Path, ready: Prepared, tokenizer: Path, precision: Precision) -> str:
    package = Path(bertline.__file__).parent
    made_of = {
        "weights": encoder.weights_sha256(teacher.folder),
        "tokenizers": [files.sha256(folder / "tokenizer.json") for folder in (own, tokenizer)],
        "settings": [task.settings.model_dump(mode="json") for task in (teacher.task, ready.splits.task)],
        "texts": ready.splits.fingerprint,
        "precision": precision,
        "code": [files.sha256(package / "train" / f"{name}.py") for name in ("teacher", "evaluation", "mapped")],
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
