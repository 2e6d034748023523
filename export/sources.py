"""What a bundle is made from: a finished run, or any Hugging Face model or checkpoint with texts to measure it on."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bertline.artifacts import encoder, files, imports, places, run, tables
from bertline.artifacts import recipe as recipes
from bertline.artifacts.bundle import Source
from bertline.artifacts.errors import InputError
from bertline.artifacts.files import FileEntry
from bertline.artifacts.recipe_schema import INPUTS
from bertline.artifacts.run import Provenance, RunFolder
from bertline.artifacts.task import Decision, ProblemType, TaskName, TaskSettings, Tokens
from bertline.export.gathering import checkpoint
from bertline.export.quiet import quiet
from bertline.tasks import catalog
from bertline.tasks.task import Example, Task
from bertline.tasks.tokens import Text

UNTUNED = Decision(no_answer_threshold=0.0)
"""Of a model without a run, where some questions have no answer: that is given where it scores higher than any span, as
by transformers' run_qa."""


@dataclass(frozen=True)
class Origin:
    """A model that is complete on this machine, and the texts it is held to."""

    kind: Literal["run", "model", "checkpoint"]
    place: str
    """As the user named it."""
    name: str
    model: str
    """The place that the run had started from; `place` where there was no run."""
    folder: Path
    """A Hugging Face folder: config.json, weights, tokenizer."""
    tokenizer: Path
    """A folder of config.json and tokenizer.json, by which texts are read: the same, or what `make_tokenizer` made."""
    config: dict[str, Any]
    settings: TaskSettings
    metric: str
    examples: list[Example]
    data: FileEntry | None
    """Their file; None: they are the run's validation split."""
    recipe: dict[str, Any] | None = None
    """Of a run."""
    provenance: Provenance | None = None
    """Of a run."""

    @property
    def task(self) -> Task:
        """What it does."""
        return catalog.make(self.settings)

    @property
    def texts(self) -> list[Text]:
        """What the examples ask."""
        return [example.texts for example in self.examples]

    @property
    def names_sigmoid(self) -> bool:
        """Whether the model says that sentence-transformers gives its scores through a sigmoid, which bertline does
        not of a number: in config.json, under another key before its version 4, or in a file of its own.
        """
        own = self.folder / "config_sentence_transformers.json"
        told = [
            self.config.get("sentence_transformers"),
            self.config.get("sbert_ce_default_activation_function"),
            own.read_text(errors="replace") if own.is_file() else None,
        ]
        return any("torch.nn.modules.activation.Sigmoid" in str(one) for one in told)

    def source(self, bundle: Path) -> Source:
        """As the manifest of `bundle` tells it."""
        place = recorded(self.place, bundle)
        return Source(
            kind=self.kind,
            place=place,
            model=self.model if self.kind == "run" else place,
            weights_sha256=encoder.weights_sha256(self.folder),
            revision=places.revision(self.folder),
            recipe=self.recipe,
            provenance=self.provenance,
        )


def called(place: str) -> str:
    """What a bundle of `place` is called where nobody says otherwise: as its last part, in a form that can be served.

    That is without the revision of a hub id, and with hyphens for what has no place in a URL.
    """
    name, _, _ = places.split_hub_id(place)
    last = Path(os.path.abspath(places.expanded(name))).name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-")
    return name if name.strip(".") else "model"


def recorded(place: str, bundle: Path) -> str:
    """A place as a bundle tells it: a local folder as it is seen from there."""
    local = places.expanded(place)
    return os.path.relpath(local.resolve(), bundle.resolve()) if local.exists() else place


def opened(place: str, bundle: Path) -> str:
    """A place that a bundle tells, as it can be opened from here."""
    local = Path(os.path.normpath(bundle.resolve() / place))
    return str(local) if local.exists() else place


def is_checkpoint(place: str, asked: bool) -> bool:
    """Whether `place` is to be read as a DeepSpeed checkpoint: a model's weights beside one go first, unless asked."""
    folder = places.expanded(place)
    if RunFolder(folder).exists or (not asked and any(folder.glob("*.safetensors"))):
        return False
    return bool(checkpoint.find(folder))


def read(place: str, data: Path | None, gathered: Path | None = None, columns: Mapping[str, str] = {}) -> Origin:
    """Read a source and check that it can be exported.

    Args:
        place: a run folder, or a model's place (local folder, pkg://, hub id).
        data: labelled texts (text[, text_pair], label) to measure on; a run has its validation split.
        gathered: the model folder that was made of it, where `place` is a checkpoint.
        columns: what `data` calls its columns, where it calls them otherwise.

    Raises:
        InputError: an unfinished run, a model that is refused or has no classification head, or no texts; or columns
            of no `data`.
        DamagedError: best/ is not what the run recorded.
    """
    if columns and data is None:
        raise InputError("--column is of labelled examples: give --data FILE with it")
    if gathered is not None:
        return _model(place, data, columns, gathered, "checkpoint")
    folder = RunFolder(places.expanded(place))
    if folder.exists:
        return _run(place, folder, data, columns)
    return _model(place, data, columns, places.model_folder(place), "model")


def with_tokenizer(origin: Origin, folder: Path) -> Origin:
    """The same, read by what `make_tokenizer` returns; a run has the tokenizer that it was trained with."""
    return origin if origin.kind == "run" else replace(origin, tokenizer=make_tokenizer(origin.folder, folder))


def make_tokenizer(model: Path, folder: Path) -> Path:
    """A folder of a model's config.json and a tokenizer.json that says what transformers reads.

    Returns:
        The model's own, or `folder`, made where that one has none that will do.

    Raises:
        InputError: none can be made of what the model has.
    """
    with quiet():
        with imports.lean():
            from bertline.models import tokenizer_json

        return tokenizer_json.make_beside_config(model, folder)


def calibration(origin: Origin) -> tuple[list[Text], str | None]:
    """Texts that quantizers may look at, and a notice where these are not training texts."""
    place = RunFolder(places.expanded(origin.place)).split("calibration") if origin.kind == "run" else None
    if place is not None and place.is_file():
        columns = origin.task.columns()
        return [origin.task.read_texts(row, columns, where) for where, row in tables.rows(place)], None
    return origin.texts, "scales of static quantization were taken from the texts that the candidates were measured on"


def _run(place: str, folder: RunFolder, data: Path | None, columns: Mapping[str, str]) -> Origin:
    summary = run.verify(folder.path)
    return Origin(
        kind="run",
        place=place,
        name=summary.name,
        model=summary.model,
        folder=folder.best,
        tokenizer=folder.best,
        config=encoder.check(folder.best),
        settings=summary.alone,
        metric=summary.held_to,
        examples=catalog.make(summary.alone).read_file(data or folder.split("validation"), columns),
        data=None if data is None else files.entry(data),
        recipe=recipes.published(folder.recipe) if folder.recipe.is_file() else None,
        provenance=summary.provenance,
    )


def _model(
    place: str, data: Path | None, columns: Mapping[str, str], folder: Path, kind: Literal["model", "checkpoint"]
) -> Origin:
    config = encoder.check(folder)
    faults = _head_faults(place, folder, config)
    if data is None:
        faults.append(f"{place}: a model without a run is measured on texts of yours: add --data FILE (text, label)")
    if data is None or faults:
        raise InputError(*faults)
    settings = _settings(config, data, columns)
    examples = _examples(place, folder, settings, data, columns)
    if settings.task == "question-answering" and not all(example.gold for example in examples):
        settings = settings.model_copy(update={"decision": UNTUNED})
    return Origin(
        kind=kind,
        place=place,
        name=called(place),
        model=place,
        folder=folder,
        tokenizer=folder,
        config=config,
        settings=settings,
        metric=settings.scores[0],
        examples=examples,
        data=files.entry(data),
    )


def _settings(config: dict[str, Any], data: Path, columns: Mapping[str, str]) -> TaskSettings:
    """The task that a model's head is for, with nothing tuned: of a pair of texts where the data has pairs."""
    task = _task(config)
    assert task is not None, "the head is known"
    classifies = task == "text-classification"
    problem = config.get("problem_type") or "single_label_classification"
    inputs = list(INPUTS[task])
    if classifies and ("text_pair" in columns or "text_pair" in tables.columns(data)):
        inputs.append("text_pair")
    length = encoder.max_tokens(config)
    windows = Tokens(max_length=length, stride=length // 4, long="windows")
    return TaskSettings(
        task=task,
        problem_type=problem if classifies else None,
        inputs=inputs,
        labels=encoder.label_names(config) if task != "question-answering" else [],
        tokens=Tokens(max_length=length) if classifies else windows,
    )


def _task(config: dict[str, Any]) -> TaskName | None:
    """By the architecture that config.json names."""
    names = encoder.architectures(config)
    return next(
        (task for task, kind in catalog.TASKS.items() for name in names if name.endswith(kind.architecture)), None
    )


def _examples(
    place: str, folder: Path, settings: TaskSettings, data: Path, columns: Mapping[str, str]
) -> list[Example]:
    """As `Task.read_file`. Where labels of the data are unknown since the model has no names for them, that is told."""
    try:
        return catalog.make(settings).read_file(data, columns)
    except InputError as error:
        nameless = settings.labels == [f"LABEL_{index}" for index in range(len(settings.labels))]
        if not (nameless and "unknown label" in str(error)):
            raise
        advice = f"name the outputs 0, 1, … in id2label as the data does{_in_a_copy(place, folder)}"
        raise InputError(*error.faults, f"{folder / 'config.json'}: {advice}") from None


def _in_a_copy(place: str, folder: Path) -> str:
    """What advice to change a file of a model ends with: nobody is to change a hub client's cache."""
    return "" if places.revision(folder) is None else f", in a copy: {places.downloading(place, 'FOLDER')}"


def _head_faults(place: str, folder: Path, config: dict[str, Any]) -> list[str]:
    """Why what its head answers cannot be told; one that is named but has no weights is found on loading."""
    file, task = folder / "config.json", _task(config)
    if task is None:
        heads = ", ".join(kind.architecture for kind in catalog.TASKS.values())
        found = ", ".join(encoder.architectures(config)) or "none"
        return [f"{file}: architectures is {found}, none of {heads}; fine-tune the model first: bertline train RECIPE"]
    if task == "question-answering":
        return []
    return [f"{file}: {fault}{_in_a_copy(place, folder)}" for fault in _answer_faults(task, config)]


def _answer_faults(task: TaskName, config: dict[str, Any]) -> Iterator[str]:
    """What bertline has no answer for."""
    names, problem = encoder.label_names(config), config.get("problem_type")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield f"id2label: {twice[0]!r:.60} stands there twice; an answer is told by the name of its label"
    if task == "token-classification" and set(names) == {"O"}:
        yield "id2label: O alone; a tagger that knows no entity finds none"
    if task == "text-classification" and problem not in (None, *get_args(ProblemType)):
        yield f"problem_type: found {problem!r:.60}; expected one of {', '.join(get_args(ProblemType))}"
    if task == "text-classification" and problem == "regression" and len(names) > 1:
        yield f"problem_type: a regression of {len(names)} numbers; bertline answers with one"
    if task == "text-classification" and problem in (None, "single_label_classification") and len(names) == 1:
        meant = "regression for its logit, or multi_label_classification for the sigmoid of that"
        yield f"problem_type: {problem or 'none'}, of one label, {names[0]!r:.60}; set it to {meant}"
