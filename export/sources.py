"""The sources of bundles: a finished run, or any Hugging Face model or checkpoint with texts to measure it on."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bertline.artifacts import encoder, files, places, run, tables
from bertline.artifacts import recipe as recipes
from bertline.artifacts.bundle import Source
from bertline.artifacts.errors import InputError
from bertline.artifacts.files import FileEntry
from bertline.artifacts.recipe_schema import INPUTS
from bertline.artifacts.run import Provenance, RunFolder
from bertline.artifacts.task import Decision, ProblemType, TaskName, TaskSettings, Tokens
from bertline.export.gathering import checkpoint
from bertline.export.quiet import quiet
from bertline.models import imports
from bertline.tasks import catalog, heads
from bertline.tasks.task import Example, Task
from bertline.tasks.tokens import Text

_NAMELESS = re.compile(r"LABEL_\d+|\d+")
UNTUNED = Decision(no_answer_threshold=0.0)
"""For a model without a run, if some questions have no answer: "no answer" is given when it scores higher than any
span, as in transformers' run_qa."""


@dataclass(frozen=True)
class Origin:
    """A model on this machine, and the examples it is measured on."""

    kind: Literal["run", "model", "checkpoint"]
    place: str
    """As the user named it."""
    name: str
    model: str
    """The place of the model that the run started from; `place` if there was no run."""
    folder: Path
    """A Hugging Face folder: config.json, weights, tokenizer."""
    tokenizer: Path
    """A folder with config.json and the tokenizer.json in use: `folder`, or the one that `make_tokenizer` made."""
    config: dict[str, Any]
    settings: TaskSettings
    metric: str
    examples: list[Example]
    data: FileEntry | None
    """The file of the examples; None if they are the run's validation split."""
    repeated: int = 0
    """The number of rows of that file that repeat others, and are no examples."""
    recipe: dict[str, Any] | None = None
    """The run's recipe; None without a run."""
    provenance: Provenance | None = None
    """The run's provenance; None without a run."""

    @property
    def task(self) -> Task:
        """The model's task."""
        return catalog.make(self.settings)

    @property
    def texts(self) -> list[Text]:
        """The texts of the examples."""
        return [example.texts for example in self.examples]

    @property
    def names_sigmoid(self) -> bool:
        """Whether the model tells sentence-transformers to apply a sigmoid to its score, as bertline does not for a
        regression: in config.json (under another key before version 4), or in a separate file.
        """
        own = self.folder / "config_sentence_transformers.json"
        settings = [
            self.config.get("sentence_transformers"),
            self.config.get("sbert_ce_default_activation_function"),
            own.read_text(errors="replace") if own.is_file() else None,
        ]
        return any("torch.nn.modules.activation.Sigmoid" in str(one) for one in settings)

    def source(self, bundle: Path) -> Source:
        """This origin as the manifest of `bundle` records it."""
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
    """The default name of a bundle of `place`: its last component, without a hub revision, and safe in a URL."""
    name, _, _ = places.split_hub_id(place)
    last = Path(os.path.abspath(places.expanded(name))).name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-")
    return name if name.strip(".") else "model"


def recorded(place: str, bundle: Path) -> str:
    """A place as a bundle records it: a local path relative to the bundle."""
    local = places.expanded(place)
    return os.path.relpath(local.resolve(), bundle.resolve()) if local.exists() else place


def base_name(place: str) -> str:
    """A place without the folders that a local path leads through, which need not be known where a bundle is read."""
    if places.is_hub_id(place) or place.startswith("pkg://"):
        return place
    return Path(os.path.abspath(places.expanded(place))).name


def opened(place: str, bundle: Path) -> str:
    """A place that a bundle records, as a path that can be opened from the working directory."""
    local = Path(os.path.normpath(bundle.resolve() / place))
    return str(local) if local.exists() else place


def is_checkpoint(place: str, asked: bool) -> bool:
    """Whether to read `place` as a DeepSpeed checkpoint; safetensors beside one take precedence unless `asked`."""
    folder = places.expanded(place)
    if RunFolder(folder).exists or (not asked and any(folder.glob("*.safetensors"))):
        return False
    return bool(checkpoint.find(folder))


def read(place: str, data: Path | None, gathered: Path | None = None, columns: Mapping[str, str] = {}) -> Origin:
    """Read a source and check that it can be exported.

    Args:
        place: a run folder, or a model's place (local folder, pkg://, hub id).
        data: labelled texts (text[, text_pair], label) to measure on; a run uses its validation split by default.
        gathered: the model folder gathered from `place`, if that is a checkpoint.
        columns: the names of the columns of `data` that have other names than the default.

    Raises:
        InputError: the run is unfinished, the model is refused or has no trained head for a task, there are no texts,
            or `columns` is given without `data`.
        DamagedError: best/ differs from what the run recorded.
    """
    if columns and data is None:
        raise InputError("--column names columns of labelled examples: add --data FILE")
    folder = RunFolder(places.expanded(place))
    if gathered is not None:
        origin = _model(place, data, columns, gathered, "checkpoint")
    elif folder.exists:
        origin = _run(place, folder, data, columns)
    else:
        origin = _model(place, data, columns, places.model_folder(place), "model")
    return origin if data is None else _without_repeats(origin)


def _without_repeats(origin: Origin) -> Origin:
    """The same without examples that repeat others, which would count as evidence of their own."""
    kept = list({repr(example): example for example in origin.examples}.values())
    return replace(origin, examples=kept, repeated=len(origin.examples) - len(kept))


def with_tokenizer(origin: Origin, folder: Path) -> Origin:
    """The same with the tokenizer that `make_tokenizer` returns; a run keeps the one it was trained with.

    Raises:
        InputError: as `make_tokenizer`; or it has ids that the model has no embeddings for.
    """
    made = origin if origin.kind == "run" else replace(origin, tokenizer=make_tokenizer(origin.folder, folder))
    largest, rows = made.task.tokenizer(made.tokenizer).largest_id(), made.config.get("vocab_size")
    if rows is not None and largest >= rows:
        raise InputError(
            f"{origin.place}: its tokenizer has ids up to {largest:,}, but the model has embeddings for {rows:,}; call "
            "resize_token_embeddings of transformers, and save the model"
        )
    return made


def make_tokenizer(model: Path, folder: Path) -> Path:
    """A folder with the model's config.json and a tokenizer.json that tokenizes as transformers does.

    Returns:
        The model's own folder, or `folder`, which is made if the model has no suitable tokenizer.json.

    Raises:
        InputError: no tokenizer.json can be made from the model's files.
    """
    with quiet():
        with imports.lean():
            from bertline.models import tokenizer_json

        return tokenizer_json.make_beside_config(model, folder)


def calibration(origin: Origin) -> tuple[list[Text], str | None]:
    """The calibration texts for quantizers, and a notice if they are not training texts."""
    place = RunFolder(places.expanded(origin.place)).split("calibration") if origin.kind == "run" else None
    if place is not None and place.is_file():
        columns = origin.task.columns()
        return [origin.task.read_texts(row, columns, where) for where, row in tables.rows(place)], None
    return origin.texts, "static quantization was calibrated on the same texts that the candidates were measured on"


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
        faults.append(f"{place}: a model without a run has no texts to measure on: add --data FILE (text, label)")
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


def held_to(origin: Origin, metric: str) -> Origin:
    """The origin with another metric. Raises InputError if its task has none of that name."""
    if metric not in origin.settings.scores:
        raise InputError(f"--metric: found {metric!r}; this task is measured in {', '.join(origin.settings.scores)}")
    return replace(origin, metric=metric)


def _settings(config: dict[str, Any], data: Path, columns: Mapping[str, str]) -> TaskSettings:
    """The task settings of a model's head, untuned; for pairs of texts if the data has them."""
    task = heads.task(config)
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
        labels=heads.labels(config, task),
        tokens=Tokens(max_length=length) if classifies else windows,
    )


def _examples(
    place: str, folder: Path, settings: TaskSettings, data: Path, columns: Mapping[str, str]
) -> list[Example]:
    """Read examples as `Task.read_file` does; if labels are unknown because the model does not name its, say so."""
    try:
        return catalog.make(settings).read_file(data, columns)
    except InputError as error:
        if not (heads.nameless(settings.labels) and "unknown label" in str(error)):
            raise
        advice = f"name the outputs 0, 1, … in id2label as the data does{_in_a_copy(place, folder)}"
        raise InputError(*error.faults, f"{folder / 'config.json'}: {advice}") from None


def _in_a_copy(place: str, folder: Path) -> str:
    """The end of advice to edit a model's file: the files in a hub client's cache must not be edited."""
    if places.revision(folder) is None:
        return ""
    copying = (
        places.downloading(place, "FOLDER") if places.is_hub_id(place) else f"cp -rL {shlex.quote(str(folder))} FOLDER"
    )
    return f", in a copy: {copying}"


def _head_faults(place: str, folder: Path, config: dict[str, Any]) -> list[str]:
    """Why the model's head cannot be used; a head without trained weights is only found on loading."""
    file, task = folder / "config.json", heads.task(config)
    if task is None:
        known = ", ".join(kind.architecture for kind in catalog.TASKS.values())
        found = ", ".join(encoder.architectures(config)) or "none"
        return [f"{file}: architectures is {found}, none of {known}; fine-tune the model first: bertline train RECIPE"]
    return [f"{file}: {fault}{_in_a_copy(place, folder)}" for fault in _answer_faults(task, config)]


def _answer_faults(task: TaskName, config: dict[str, Any]) -> Iterator[str]:
    """What in config.json makes the head's answers ambiguous, or unsupported."""
    names, problem = heads.labels(config, task), config.get("problem_type")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield f"id2label: {twice[0]!r:.60} occurs twice; answers are told apart by the names of their labels"
    if task == "token-classification" and set(names) == {"O"}:
        yield "id2label: only O; a tagger without entity labels finds nothing"
    if task == "token-classification" and all(_NAMELESS.fullmatch(name) for name in names):
        yield f"id2label: found {', '.join(names):.60}; name the tags (O, B-PER, …), or O would be taken for an entity"
    if task == "text-classification" and problem not in (None, *get_args(ProblemType)):
        yield f"problem_type: found {problem!r:.60}; expected one of {', '.join(get_args(ProblemType))}"
    if task == "text-classification" and problem == "regression" and len(names) > 1:
        yield f"problem_type: a regression with {len(names)} outputs; bertline supports one"
    if task == "text-classification" and problem in (None, "single_label_classification") and len(names) == 1:
        meant = "regression to get its logit, or multi_label_classification to get the sigmoid of it"
        yield f"problem_type: {problem or 'none'}, with one label, {names[0]!r:.60}; set it to {meant}"
