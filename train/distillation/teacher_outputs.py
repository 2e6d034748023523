"""A teacher's outputs on the training texts, computed once, on all ranks, and cached on disk."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from bertline.artifacts import files
from bertline.artifacts.errors import PreemptedError
from bertline.artifacts.sequences import batched
from bertline.models import pytorch
from bertline.serve.engine import Engine
from bertline.tasks.task import Output
from bertline.tasks.text_classification import TextClassification
from bertline.tasks.tokens import Encoded, Tokenizer
from bertline.train import evaluation, preemption, ranks, watchdog
from bertline.train.cache import make_once, place
from bertline.train.data.mapped import Outputs
from bertline.train.data.prepared import Prepared
from bertline.train.deepspeed_config import Precision
from bertline.train.distillation.teacher import Teacher, reads_alike
from bertline.train.model import autocast
from bertline.train.progress import Progress

FILE = "outputs.arrow"
ASKING = "asking the teacher"
AT_ONCE = 512
"""Windows or texts per part, which is computed and saved as a whole; a request to stop is noticed between parts."""

Forward = Callable[[Sequence[Encoded]], list[Output]]
"""A teacher's forward pass: computes its outputs for windows, and returns them all on every rank."""


def compute(
    teacher: Teacher,
    ready: Prepared,
    tokenizer_folder: Path,
    precision: Precision,
    batch_size: int,
    cache: Path,
    progress: Progress,
) -> Outputs:
    """The teacher's output for each window of the training texts, labelled or not, on every rank.

    Args:
        teacher: computes the outputs, unless they are in the cache.
        ready: the student's prepared data.
        tokenizer_folder: the student's tokenizer.
        precision: the precision that the teacher computes in; a bundle has its own.
        batch_size: windows per batch and rank.
        cache: where the outputs are kept.
        progress: shows the progress of the teacher.

    Raises:
        InputError: the teacher reads other tokens than the student, which the task does not allow; or the disk is full.
        PreemptedError: the run was asked to stop.
    """
    alike = reads_alike(teacher, ready.splits.task, tokenizer_folder)
    folder = ranks.from_first(lambda: _folder(teacher, ready, tokenizer_folder, precision, cache))  # rank 0's versions
    if not ranks.from_first(folder.exists):
        progress.say(f"asking {teacher.place} for its outputs on {len(ready.train.windows):,} windows of text")
        tokenizer = teacher.task.tokenizer(teacher.tokenizer)
        if teacher.is_bundle:
            forward = _resumable(_engine(teacher, progress), folder)
        else:
            forward = _resumable(_model(teacher, tokenizer, precision, batch_size, progress), folder)
        _write(folder, _by_window(forward, ready) if alike else _by_text(forward, ready, teacher, tokenizer))
        if ranks.is_first():
            for part in folder.parent.glob(f"{folder.name}-part-*"):
                files.remove_folder(part)
    return Outputs(folder / FILE)


def _by_window(forward: Forward, ready: Prepared) -> Iterator[Output]:
    """Yield the teacher's output for each of the student's windows, which both read alike."""
    windows = ready.train.windows
    for first in range(0, len(windows), AT_ONCE):
        yield from forward(windows[first : first + AT_ONCE])


def _by_text(forward: Forward, ready: Prepared, teacher: Teacher, tokenizer: Tokenizer) -> Iterator[Output]:
    """Yield, for each of the student's windows, the output for its text, pooled over all of the teacher's windows."""
    assert isinstance(teacher.task, TextClassification)
    of_text: list[Output] = []
    for some in batched(itertools.chain(ready.splits.train, ready.splits.unlabelled), AT_ONCE):
        windows = tokenizer.encode([example.texts for example in some])
        of_text += teacher.task.pooled(len(some), windows, forward(windows))
    yield from (of_text[window.text] for window in ready.train.windows)


def _model(
    teacher: Teacher, tokenizer: Tokenizer, precision: Precision, batch_size: int, progress: Progress
) -> Forward:
    """Computes with a PyTorch model on every rank's device; each rank computes its share."""
    loaded = pytorch.load(teacher.folder, teacher.task.architecture).to(ranks.device())

    def forward(windows: Sequence[Encoded]) -> list[Output]:
        with autocast(precision):
            return evaluation.outputs(loaded, windows, ASKING, tokenizer, batch_size, progress)

    return forward


def _engine(teacher: Teacher, progress: Progress) -> Forward:
    """Computes with a bundle's model on every rank's CPU cores; each rank computes its share."""
    engine = Engine.load(teacher.folder, torch.get_num_threads())
    rank, count = dist.get_rank(), dist.get_world_size()

    def forward(windows: Sequence[Encoded]) -> list[Output]:
        turns, found = range(0, len(windows), count), []
        for first in progress.track(turns, len(turns), ASKING):
            watchdog.beat(f"{ASKING}, window {first}")  # equally often on all ranks: the watchdog compares counts
            found += engine.outputs(windows[first + rank : first + rank + 1])
        shares: list[Any] = [None] * count
        torch.distributed.all_gather_object(shares, found)
        return [shares[index % count][index // count] for index in range(len(windows))]

    return forward


def _resumable(computing: Forward, folder: Path) -> Forward:
    """Wrap `computing` so that the outputs of each call are saved: a run that was stopped resumes after the last part.

    The parts are next to the folder that they are for. Another run that computes the same may remove them at any time.

    Raises:
        PreemptedError: from the returned function, when a rank was asked to stop.
    """
    calls = itertools.count()

    def forward(windows: Sequence[Encoded]) -> list[Output]:
        part = folder.with_name(f"{folder.name}-part-{next(calls)}")
        if (kept := ranks.from_first(lambda: _kept(part))) is not None:
            return kept
        computed = computing(windows)
        if ranks.is_first():
            make_once(part, partial(_fill, computed))
        if ranks.sum_over_ranks(torch.tensor(float(preemption.asked.is_set()), device=ranks.device())):
            raise PreemptedError(f"{ASKING}: stopped as asked; its outputs so far are kept in {folder.parent}")
        return computed

    return forward


def _kept(part: Path) -> list[Output] | None:
    try:
        return [output.copy() for output in Outputs(part / FILE)]  # copied, since another run may remove the file
    except FileNotFoundError:
        return None


def _fill(computed: Iterable[Output], folder: Path) -> None:
    Outputs.write(folder / FILE, computed)


def _write(folder: Path, computed: Iterator[Output]) -> None:
    """Compute on all ranks; rank 0 writes.

    Raises:
        InputError: the disk is full.
    """
    if ranks.is_first():
        make_once(folder, partial(_fill, computed))
    for _ in computed:  # the other ranks must take part in the computation
        pass
    ranks.barrier()


def _folder(teacher: Teacher, ready: Prepared, tokenizer: Path, precision: Precision, cache: Path) -> Path:
    """The folder of a teacher's outputs, named by a hash of all that they depend on."""
    made_of = {
        "teacher": [teacher.sha256, files.sha256(teacher.folder / "config.json")],
        "tokenizers": [files.sha256(folder / "tokenizer.json") for folder in (teacher.tokenizer, tokenizer)],
        "settings": [task.settings.model_dump(mode="json") for task in (teacher.task, ready.splits.task)],
        "texts": ready.splits.fingerprint,
        "precision": precision,
    }
    return place(cache, "teacher", made_of)
