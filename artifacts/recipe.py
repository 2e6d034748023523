"""The recipe: one YAML file that says all of a run, checked whole before anything is loaded.

`load` tells every fault at once, each with the path of the key, what was found and what would do. What a recipe names
outside itself (files, columns, a model's positions) is checked with it, as far as that is on this machine.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from bertline.artifacts import bundle, dotted, encoder, files, places, run, searched, tables, task
from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Input, Long, ProblemType, TaskName, TaskSettings

Places = StrictStr | list[StrictStr]


def _is_share(value: object) -> int | float:
    if (type(value) is int and value >= 1) or (type(value) is float and 0 < value < 1):
        return value
    raise ValueError("a count of 1 or more, or a fraction between 0 and 1")


Share = Annotated[int | float, BeforeValidator(_is_share)]
Whole = Annotated[int, Field(strict=True)]
SHORTEST_WINDOW = 16
LOSSES = ("loss", "mse")
"""What may pick the best checkpoint beside a task's scores: the less, the better."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values are not changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Take(Section):
    """How many examples each split gets: a count, or a fraction of what there is."""

    train: Share | None = Field(None, description="Training examples: count or fraction. Default: all that are left.")
    validation: Share = Field(0.1, description="Validation examples: count or fraction. Default: 0.1.")
    test: Share = Field(0.1, description="Test examples: count or fraction. Default: 0.1.")


class Data(Section):
    """Where the examples are, and which columns hold what."""

    train: Places = Field(description="File, glob, list of files, pkg:// place or hub id. No default.")
    validation: Places | None = Field(None, description="As train. Default: cut from train, stratified by label.")
    test: Places | None = Field(None, description="As train. Default: cut from train, stratified by label.")
    where: dict[str, Any] = Field({}, description="Rows kept: column equals value, or one of a list. Default: all.")
    text: StrictStr = Field("text", description="Column of the text. Default: text.")
    text_pair: StrictStr | None = Field(None, description="Column of a second text. Default: none.")
    label: StrictStr = Field("label", description="Column of the label, labels or number. Default: label.")
    tokens: StrictStr = Field("tokens", description="Column of a sentence's tokens. Default: tokens.")
    tags: StrictStr = Field("tags", description="Column of the tokens' tags. Default: tags.")
    question: StrictStr = Field("question", description="Column of the question. Default: question.")
    context: StrictStr = Field("context", description="Column of the text that answers it. Default: context.")
    answers: StrictStr = Field("answers", description="Column of the answers. Default: answers.")
    unlabelled: Places | None = Field(
        None, description="Texts without labels, as train; all rows are read. A teacher labels them. Default: none."
    )
    labels: list[StrictStr] | None = Field(
        None,
        min_length=1,
        description="Names for labels 0, 1, …; of entities, their types. Default: taken from the data, sorted.",
    )
    take: Take = Field(Take(), description="How many examples each split gets.")


class Tokens(Section):
    """How texts become tokens."""

    max_length: Whole = Field(128, ge=4, description="Tokens read at once, special ones included. Default: 128.")
    stride: Whole | None = Field(
        None, ge=0, description="Tokens that neighboring windows share. Default: a quarter of max_length."
    )
    long: Long | None = Field(
        None,
        description="Read of a text over max_length: head, tail, head+tail, or all of it in windows, whose logits are "
        "averaged. Default: head; entities and answers are always looked for in windows.",
    )


class Freeze(Section):
    """Which parameters stay as they are."""

    embeddings: StrictBool = Field(False, description="Freeze the embeddings. Default: false.")
    layers: Whole = Field(0, ge=0, description="Freeze the first N encoder layers. Default: 0.")


class Training(Section):
    """The optimization, in Hugging Face's and DeepSpeed's words."""

    epochs: Whole = Field(3, ge=1, description="Passes over the training examples. Default: 3.")
    learning_rate: float = Field(2e-5, gt=0, le=1, description="AdamW's peak learning rate. Default: 2e-5.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of all steps that warm up, linearly. Default: 0.1.")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="What the learning rate does after warm-up: falls to 0 by a line or cosine, or stays. "
        "Default: linear.",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning rate of a layer, as a share of that of the one above. Default: 1."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's, not for biases and norms. Default: 0.01.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm. Default: 1.0.")
    batch_size: Whole = Field(32, ge=1, description="Examples an optimizer step sees, over all ranks. Default: 32.")
    micro_batch_size: Whole | None = Field(
        None, ge=1, description="Examples a rank computes at once. Default: its whole share of the batch."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 where computed natively, else fp16 on GPUs, else fp32. Default: auto.",
    )
    zero_stage: Whole = Field(1, ge=0, le=3, description="DeepSpeed's ZeRO stage, 0 to 3. Default: 1.")
    gradient_checkpointing: StrictBool = Field(
        False, description="Compute layers twice instead of keeping what they computed: less memory. Default: false."
    )
    freeze: Freeze = Field(Freeze(), description="Which parameters stay as they are.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout probability. Default: the model's own.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread evenly. Default: 0.")
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None,
        description="Weight of labels in the loss, 1 if not named; balanced: the rarer, the more. Default: none.",
    )
    early_stopping_patience: Whole | None = Field(
        None, ge=1, description="End after N evaluations in a row that are not the best. Default: never."
    )
    eval_steps: Whole = Field(0, ge=0, description="Evaluate every N steps; 0: after each epoch. Default: 0.")
    save_steps: Whole = Field(0, ge=0, description="Checkpoint every N steps; 0: after each epoch. Default: 0.")
    save_total_limit: Whole = Field(2, ge=1, description="Checkpoints kept, the newest. Default: 2.")
    timeout: float | None = Field(
        None,
        gt=0,
        description="Seconds without a step forward of some rank after which the run ends; five times the longest so "
        "far are always allowed. Default: 20 on CPU ranks, 600 on GPUs.",
    )
    logging_steps: Whole = Field(10, ge=1, description="Log a line every N steps. Default: 10.")
    best: StrictStr | None = Field(
        None, description="Validation metric that picks the best checkpoint. Default: the task's first."
    )
    seed: Whole = Field(42, ge=0, lt=2**31, description="Seed of splits, order, dropout and new weights. Default: 42.")


class Student(Section):
    """What is kept of the model: with less of it, the same texts cost less."""

    layers: list[Whole] | None = Field(
        None, min_length=1, description="Encoder layers kept, counted from 0, for example [0, 2, 4]. Default: all."
    )
    attention_heads: Whole | None = Field(
        None, ge=1, description="Attention heads kept in each layer, those that matter most. Default: all."
    )
    intermediate_size: Whole | None = Field(
        None, ge=1, description="Feed-forward units kept in each layer, those that matter most. Default: all."
    )

    @property
    def is_pruned(self) -> bool:
        """Whether parts of layers are left out, which only a trained model can tell the worth of."""
        return self.attention_heads is not None or self.intermediate_size is not None


class Distillation(Section):
    """How a student learns from its teacher (arXiv:1503.02531)."""

    temperature: float = Field(
        2.0, gt=0, description="Both models' logits are divided by it before they are compared. Default: 2.0."
    )
    weight: float = Field(
        1.0, gt=0, le=1, description="Share of the teacher in the loss; the labels have the rest. Default: 1.0."
    )
    relations: float = Field(
        0.0,
        ge=0,
        description="Weight of a loss between how tokens relate in both models' last layers. Default: 0, none.",
    )


class Mlflow(Section):
    """Where MLflow tracks the run, beside its own folder."""

    tracking_uri: StrictStr | None = Field(
        None, description="MLflow's server, for example http://HOST:5000. Default: MLflow is not used."
    )
    experiment: StrictStr = Field("bertline", min_length=1, description="MLflow's experiment. Default: bertline.")


class Search(Section):
    """What `bertline search` tries. Keys are dotted, as `--set` has them. See docs/search.md."""

    folds: Whole = Field(3, ge=2, description="Parts of the data, each held out once. Default: 3.")
    groups: StrictStr | None = Field(
        None, description="Column: rows that have the same value in it are in one fold. Default: none."
    )
    grid: dict[StrictStr, Any] = Field(
        {}, description="Values by key: every combination is a trial. Default: none, see space."
    )
    space: dict[StrictStr, Any] = Field(
        {}, description="By key, values or {low, high, log} that the sampler chooses from. Default: none, see grid."
    )
    trials: Whole = Field(20, ge=1, description="Combinations that are chosen from space. Default: 20.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Optuna's that chooses from space: tpe learns from the trials before. Default: tpe."
    )


class Recipe(Section):
    """All of a run. See docs/recipe.md."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="Name of run and bundle: letters, digits, . _ -")
    task: TaskName = Field(description="What the model is to do.")
    problem_type: ProblemType | None = Field(
        None,
        description="Of text classification: one label, several, or a number. Default: single_label_classification.",
    )
    model: StrictStr = Field(
        min_length=1, description="Hub id (with @revision), local folder, pkg:// place or run. Default: the teacher."
    )
    student: Student = Field(Student(), description="What is kept of the model.")
    teacher: StrictStr | None = Field(
        None, min_length=1, description="A trained model to learn from, named as model is; or a bundle. Default: none."
    )
    distillation: Distillation = Field(Distillation(), description="How it is learned from.")
    data: Data
    tokens: Tokens = Tokens()
    training: Training = Training()
    deepspeed: dict[str, Any] = Field({}, description="Merged last into DeepSpeed's configuration. Default: nothing.")
    mlflow: Mlflow = Mlflow()
    search: Search = Search()

    @property
    def metric(self) -> str:
        """The one that picks the best checkpoint."""
        return self.training.best or self.settings([]).scores[0]

    def settings(self, labels: list[str]) -> TaskSettings:
        """The task as later stages know it."""
        classifies = self.task == "text-classification"
        long = (self.tokens.long or "head") if classifies else "windows"
        length, stride = self.tokens.max_length, self.tokens.stride
        shared = length // 4 if stride is None else stride
        return TaskSettings(
            task=self.task,
            problem_type=(self.problem_type or "single_label_classification") if classifies else None,
            inputs=INPUTS[self.task] + (["text_pair"] if classifies and self.data.text_pair else []),
            labels=labels,
            tokens=task.Tokens(max_length=length, stride=shared if long == "windows" else 0, long=long),
        )


INPUTS: dict[TaskName, list[Input]] = {
    "text-classification": ["text"],
    "token-classification": ["text"],
    "question-answering": ["question", "context"],
}
COLUMNS = {
    "text-classification": ("text", "label"),
    "token-classification": ("tokens", "tags"),
    "question-answering": ("question", "context", "answers"),
}
"""Those that the examples of a task must have."""


def load(path: Path, overrides: Sequence[str] = (), searches: bool = False) -> Recipe:
    """Read a recipe, apply `KEY=VALUE` overrides (dotted keys, YAML values) and check it.

    Args:
        path: YAML file.
        overrides: KEY=VALUE.
        searches: whether it must say what to search.

    Raises:
        InputError: every fault of the recipe and of what it names.
    """
    raw = _read(path)
    for override in overrides:
        _override(raw, override)
    if raw.get("teacher") is not None:
        raw.setdefault("model", raw["teacher"])
    faults = _schema_faults(raw)
    sound = _without(raw, faults)
    sentences = [*faults.values(), *_task_faults(sound), *_data_faults(sound), *_model_faults(sound)]
    sentences += searched.faults(sound, searches, _schema_faults, lambda raw: [*_task_faults(raw), *_model_faults(raw)])
    if sentences:
        raise InputError(*(f"{path}: {sentence}" for sentence in sentences))
    return Recipe.model_validate(raw)


def read(path: Path) -> Recipe:
    """Read the resolved recipe of a run, without looking for what it names: that may be gone since."""
    return Recipe.model_validate(_read(path))


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of dotted keys."""
    raw = recipe.model_dump(mode="json")
    for key, value in settings.items():
        dotted.put(raw, key, value)
    return Recipe.model_validate(raw)


def differences(now: Recipe, then: Recipe) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two recipes differ, with both values."""
    ours, theirs = (dict(dotted.flat(recipe.model_dump(mode="json"))) for recipe in (now, then))
    keys = sorted({*ours, *theirs})
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def save(recipe: Recipe, path: Path) -> None:
    """Write `dump(recipe)` atomically."""
    files.write_text(path, dump(recipe))


_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)|[-+]?(\d+\.\d*|\.\d+)$")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 2e-5 is a number (YAML 1.1 asks for 2.0e-5), a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader: plain data only
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a recipe is a YAML file, see launch/recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds {_kind(raw)}, not a mapping of keys; see launch/recipes/")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {override}: not KEY=VALUE, for example training.learning_rate=3e-5")
    try:
        dotted.put(raw, key, yaml.load(value, _Loader))  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: {value!r} is not YAML: {' '.join(str(error).split())}") from None
    except InputError as error:
        raise InputError(f"--set {override}: {error}") from None


def _schema_faults(raw: dict[str, Any]) -> dict[str, str]:
    """A sentence by key for everything that the schema refuses."""
    faults: dict[str, str] = {}
    try:
        Recipe.model_validate(raw)
    except ValidationError as error:
        for fault in error.errors():  # a union tells once for each of its members: the first will do
            faults.setdefault(key := _key(fault["loc"]), _sentence(key, fault))
    return faults


def _without(raw: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The recipe less the faulty keys, so that what remains can be held against the files it names."""
    sound = copy.deepcopy(raw)
    for key in keys:
        *parents, last = key.split(".")
        section: Any = sound
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
    return sound


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key of a pydantic location: union members' names, which are no keys, are left out."""
    parts: list[str] = []
    section: Any = Recipe
    for part in location:
        fields = getattr(section, "model_fields", None)
        if fields is None and not isinstance(part, int):
            break
        parts.append(str(part))
        section = fields[part].annotation if fields and part in fields else None
    return ".".join(parts)


def _sentence(key: str, fault: Any) -> str:
    found = f"found {_kind(fault['input'])}"
    if fault["type"] == "missing":
        return f"{key}: missing; {_description(key)}"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key.rpartition(".")[2], known := _siblings(key), n=1)
        return f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
    rule = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ").removeprefix("a valid ")
    return f"{key}: {found}; expected {rule}. {_description(key)}".rstrip(". ")


def _siblings(key: str) -> list[str]:
    return list(_section(key.split(".")[:-1]).model_fields)


def _description(key: str) -> str:
    *parents, last = [part for part in key.split(".") if not part.isdigit()]
    field = _section(parents).model_fields.get(last)
    return (field.description if field else None) or "a section of keys"


def _section(parents: Sequence[str]) -> type[Section]:
    section: type[Section] = Recipe
    for parent in parents:
        section = cast(type[Section], section.model_fields[parent].annotation)
    return section


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"


def _task_faults(raw: dict[str, Any]) -> Iterator[str]:
    """What one key asks of a task that another says it is not."""
    if "task" not in raw:
        return
    data, tokens, training = (raw.get(name) or {} for name in ("data", "tokens", "training"))
    classifies = raw["task"] == "text-classification"
    problem: ProblemType | None = (raw.get("problem_type") or "single_label_classification") if classifies else None
    known = (*task.scores(raw["task"], problem), *LOSSES[: 2 if problem == "regression" else 1])
    if (best := training.get("best")) is not None and best not in known:
        yield f"training.best: found {best!r}; this task is measured in {', '.join(known)}"
    length, stride = tokens.get("max_length", Tokens().max_length), tokens.get("stride") or 0
    long = tokens.get("long")
    if (long == "windows" or not classifies) and 2 * stride > length:
        yield f"tokens.stride: found {stride}; windows of {length} tokens share {length // 2} at most"
    if raw["task"] == "question-answering" and length < SHORTEST_WINDOW:
        yield f"tokens.max_length: found {length}; a question and its context need {SHORTEST_WINDOW} at least"
    if not classifies and long not in (None, "windows"):
        yield f"tokens.long: found {long!r}; {raw['task']} reads all of a text, in windows: leave it out"
    if classifies and long == "windows" and data.get("text_pair"):
        yield "tokens.long: found 'windows'; pairs of texts are cut, the longer one first: leave it out"
    if not classifies and raw.get("problem_type"):
        yield f"problem_type: found {raw['problem_type']!r}; it is of text-classification alone: leave it out"
    if problem not in ("single_label_classification", None) or raw["task"] == "question-answering":
        for key in ("label_smoothing", "class_weights"):
            if training.get(key):
                yield f"training.{key}: found {training[key]!r}; it is for one label out of several: leave it out"
    if not raw.get("teacher"):
        asked = {"data.unlabelled": data.get("unlabelled"), "distillation": raw.get("distillation")}
        for key, found in asked.items():
            if found and found != Distillation().model_dump():  # which a resolved recipe spells out
                yield f"{key}: found {found!r:.60}; it is of a teacher: name one, or leave it out"
    labels = data.get("labels")
    if problem == "single_label_classification" and labels is not None and len(labels) < 2:
        yield f"data.labels: found {labels!r}; a classifier needs two labels"


def _data_faults(raw: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the files that the recipe names, as far as they are on this machine."""
    data = raw.get("data") or {}
    needed = {f"data.{key}": data.get(key, key) for key in COLUMNS.get(raw.get("task", ""), ())}
    needed["data.text_pair"] = data.get("text_pair")
    needed |= {f"data.where.{column}": column for column in data.get("where", {})}
    groups = {"search.groups": (raw.get("search") or {}).get("groups")}
    for split in ("train", "validation", "test"):
        place = data.get(split)
        if place is None or (isinstance(place, str) and places.is_hub_id(place)):
            continue
        try:
            found = [(path, tables.columns(path)) for path in places.data_files(place)]
        except InputError as error:
            yield from (f"data.{split}: {fault}" for fault in error.faults)
            continue
        for path, columns in found:
            marked = raw.get("task") == "token-classification" and {"text", "entities"} <= set(columns)
            for key, column in (needed if split == "test" else needed | groups).items():
                if column is not None and column not in columns and not marked:
                    yield f"{key}: {path} has no column {column!r}; it has {', '.join(columns)}"


def _model_faults(raw: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the models' folders, and what the recipe asks of its own that it does not have."""
    try:
        config = None if raw.get("model") is None else _config(raw["model"])
        yield from () if config is None else model_faults(config, raw)
    except InputError as error:
        yield from (f"model: {fault}" for fault in error.faults)
    try:
        teacher = raw.get("teacher")
        if teacher is not None and not (Path(teacher).expanduser() / bundle.MANIFEST).is_file():
            _config(teacher)
    except InputError as error:
        yield from (f"teacher: {fault}" for fault in error.faults)


def _config(place: str) -> dict[str, Any] | None:
    """The config.json of a model that is sound; None of a hub's, which is checked once it is downloaded.

    Raises:
        InputError: as `encoder.check`; a run that did not finish; no such model.
    """
    places.check_model_id(place)
    return None if places.is_hub_id(place) else encoder.check(run.model(place))


def model_faults(config: dict[str, Any], raw: dict[str, Any]) -> Iterator[str]:
    """What a recipe (as plain data) asks of a model that its config.json says it does not have."""
    length = raw.get("tokens", {}).get("max_length", Tokens().max_length)
    if length > (most := encoder.max_tokens(config)):
        yield f"tokens.max_length: found {length}; {raw['model']} holds at most {most} tokens"
    layers = encoder.layers(config)
    kept = raw.get("student", {}).get("layers")
    if kept is not None and (kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= layers):
        yield f"student.layers: found {kept}; name some of 0 to {layers - 1}, each once, in order"
    frozen = raw.get("training", {}).get("freeze", {}).get("layers", 0)
    if frozen > (most := layers if kept is None else len(kept)):
        yield f"training.freeze.layers: found {frozen}; {raw['model']} has {most} layers"
