"""What is wrong with a recipe: all faults at once, each with the key, what was found and what is expected.

What a recipe refers to (files, columns, a model's positions) is checked as far as it is on this machine.
"""

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from bertline.artifacts import bundle, encoder, places, run, tables, task
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import (
    COLUMNS,
    INPUTS,
    LOSSES,
    MONITORS,
    SHORTEST_WINDOW,
    Data,
    Distillation,
    Mlflow,
    Recipe,
    Section,
    Tokens,
)
from bertline.artifacts.task import ProblemType

FOREIGN = {
    "model_name_or_path": "model",
    "model_revision": "model: NAME@REVISION",
    "dataset_name": "data.train, which takes a hub id",
    "dataset_config_name": "data.train: NAME:CONFIGURATION",
    "task_name": "data.train: NAME:CONFIGURATION, for example nyu-mll/glue:mrpc",
    "train_file": "data.train",
    "validation_file": "data.validation",
    "test_file": "data.test",
    "text_column": "data.text",
    "text_column_name": "data.text, or data.tokens for token classification",
    "label_column": "data.label",
    "label_column_name": "data.label, or data.tags for token classification",
    "max_train_samples": "data.take.train",
    "max_eval_samples": "data.take.validation, if it is split off train; a split that is named is used whole",
    "max_predict_samples": "data.take.test, if it is split off train; a split that is named is used whole",
    "max_seq_length": "tokens.max_length",
    "doc_stride": "tokens.stride",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.epochs: a run is counted in whole epochs",
    "warmup_steps": "training.warmup_ratio, a share of all steps",
    "lr_scheduler": "training.lr_scheduler_type",
    "train_batch_size": "training.batch_size, over all ranks",
    "per_device_train_batch_size": "training.micro_batch_size, for a rank; training.batch_size is over all ranks",
    "per_device_eval_batch_size": "training.micro_batch_size, used in evaluation too",
    "gradient_accumulation_steps": "training.micro_batch_size: accumulation follows from it and training.batch_size",
    "fp16": "training.precision: fp16",
    "bf16": "training.precision: bf16",
    "label_smoothing_factor": "training.label_smoothing",
    "metric_for_best_model": "training.best",
    "evaluation_strategy": "training.eval_steps; 0: at the end of each epoch",
    "eval_strategy": "training.eval_steps; 0: at the end of each epoch",
    "save_strategy": "training.save_steps; 0: at the end of each epoch",
    "report_to": "deepspeed: its sections tensorboard, wandb, comet and csv_monitor; or mlflow",
    "run_name": "name",
    "logging_dir": "deepspeed: output_path in its section tensorboard",
}
"""Keys of Hugging Face's TrainingArguments and example scripts, and their counterparts in a recipe."""
NEEDLESS = {
    "num_labels": "labels are found in the data, or listed in data.labels",
    "pad_to_max_length": "a micro-batch is padded to its longest text",
    "output_dir": "bertline train --run DIR names the folder",
    "overwrite_output_dir": "a run is never overwritten; name another folder with --run, or remove the old one",
    "do_train": "bertline train always trains",
    "do_eval": "the validation split is scored after each epoch, or every training.eval_steps",
    "do_predict": "the test split is scored at the end of each run; bertline predict answers other files",
    "optim": "the optimizer is always AdamW",
    "adam_beta1": "AdamW's betas are 0.9 and 0.999",
    "adam_beta2": "AdamW's betas are 0.9 and 0.999",
    "dataloader_num_workers": "all texts are tokenized before the first step, and read from memory-mapped files",
    "group_by_length": "texts of similar length are always batched together",
    "compute_metrics": "all metrics of the task are computed; training.best names the one that counts",
    "greater_is_better": "it follows from the metric",
    "load_best_model_at_end": "best/ is always the best checkpoint",
    "resume_from_checkpoint": "bertline train RECIPE --resume resumes a run",
    "ignore_mismatched_sizes": "an output layer of another size is always replaced, and the encoder must fit",
    "version_2_with_negative": "questions without an answer are found in the data",
    "push_to_hub": "hf upload ORG/NAME RUN/best --private uploads the model",
    "hub_model_id": "hf upload ORG/NAME RUN/best --private uploads the model",
    "hub_token": "the hub is asked with HF_TOKEN, or with what hf auth login has saved",
}
"""Keys of these without a counterpart in a recipe, and why."""

SPARSE = (".jsonl", ".ndjson", ".json")
"""Suffixes of data files whose rows may have different columns."""
FLAT = (".csv", ".tsv")
"""Suffixes of data files that hold only strings."""
LISTS = {
    "token-classification": "tokens, tags and entities are lists, and CSV and TSV have none; use .conll or JSON lines",
    "question-answering": "answers are a list, and CSV and TSV have none; use JSON lines or SQuAD's JSON",
}
"""Why FLAT files cannot hold the examples of a task."""


def of(raw: dict[str, Any]) -> list[str]:
    """One sentence for each fault of a recipe (as plain data), except those of its `search`."""
    faults = of_schema(raw)
    sound = without(raw, faults)
    return [*faults.values(), *of_choices(sound), *_of_data(sound)]


def of_schema(raw: dict[str, Any]) -> dict[str, str]:
    """One sentence for every fault that the schema finds, by dotted key."""
    faults: dict[str, Any] = {}
    try:
        Recipe.model_validate(raw)
    except ValidationError as error:
        for fault in error.errors():  # a union reports one error per member: the longest location is the best match
            key = _key(fault["loc"])
            if key not in faults or len(fault["loc"]) > len(faults[key]["loc"]):
                faults[key] = fault
    return {key: _sentence(key, fault) for key, fault in faults.items()}


def without(raw: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The recipe without the faulty keys, so that the rest can be checked against the files it names."""
    sound = copy.deepcopy(raw)
    for key in keys:
        section, (name, *parts) = sound, key.split(".")
        while parts and isinstance(section.get(name), dict):
            section, (name, *parts) = section[name], parts
        section.pop(name, None)  # one faulty item removes its whole list
    return sound


def of_choices(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the values that the task or the model does not allow."""
    yield from _of_task(raw)
    yield from _of_models(raw)


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key of a pydantic location, without the names of union members, which are not keys."""
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
    found = f"found {kind(fault['input'])}"
    if fault["type"] == "missing":
        return f"{key}: missing; {_description(key)}"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_meant(key)}"
    rule = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ").removeprefix("a valid ")
    return f"{key}: {found}; expected {rule}. {_description(key)}".rstrip(". ")


def _meant(key: str) -> str:
    """What an unknown key may mean: the same name elsewhere, a similar spelling, or any of the known keys."""
    name = key.rpartition(".")[2]
    if name in FOREIGN:
        return f"here that is {FOREIGN[name]}"
    if name in NEEDLESS:
        return f"leave it out: {NEEDLESS[name]}"
    if elsewhere := [known for known in _keys(Recipe) if known.endswith(f".{name}")]:
        return f"did you mean {' or '.join(elsewhere)}?"
    if near := difflib.get_close_matches(name, known := _siblings(key), n=1):
        return f"did you mean {near[0]}?"
    alike = sorted(known, key=lambda other: difflib.SequenceMatcher(None, other, name).ratio(), reverse=True)
    return f"known are {', '.join(alike)}"


def _keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and its subsections."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _siblings(key: str) -> list[str]:
    return list(_section(key.split(".")[:-1]).model_fields)


def _description(key: str) -> str:
    *parents, last = [part for part in key.split(".") if not part.isdigit()] or [key]
    field = _section(parents).model_fields.get(last)
    return (field.description if field else None) or "a section of keys"


def _section(parents: Sequence[str]) -> type[Section]:
    section: type[Section] = Recipe
    for parent in parents:
        section = cast(type[Section], section.model_fields[parent].annotation)
    return section


def kind(value: Any) -> str:
    """Type and value of what was found, for a message."""
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"


def _of_task(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the keys that contradict the task or each other."""
    if "task" not in raw:
        return
    classifies = raw["task"] == "text-classification"
    if not classifies and raw.get("problem_type"):
        yield f"problem_type: found {raw['problem_type']!r}; it is for text-classification only: leave it out"
    problem: ProblemType | None = (raw.get("problem_type") or "single_label_classification") if classifies else None
    known = (*task.scores(raw["task"], problem), *LOSSES[: 2 if problem == "regression" else 1])
    if (best := _part(raw, "training").get("best")) is not None and best not in known:
        yield f"training.best: found {best!r}; this task is measured in {', '.join(known)}"
    yield from _of_columns(raw)
    yield from _of_tokens(raw)
    yield from _of_labels(raw, problem)
    yield from _of_teacher(raw)
    yield from _of_monitors(raw)


def _of_columns(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the columns that only other tasks read."""
    data, optional = _part(raw, "data"), {"text-classification": "text_pair", "token-classification": "entities"}
    own = {*COLUMNS[raw["task"]], *INPUTS[raw["task"]], optional.get(raw["task"])}
    for key in sorted({*optional.values(), *chain(*COLUMNS.values())} - own):
        if data.get(key, default := Data.model_fields[key].default) != default:
            yield f"data.{key}: found {data[key]!r:.60}; {raw['task']} reads no such column: leave it out"


def _of_tokens(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the faults in how long texts are read."""
    tokens, classifies = _part(raw, "tokens"), raw["task"] == "text-classification"
    length, stride = tokens.get("max_length", Tokens().max_length), tokens.get("stride") or 0
    long = tokens.get("long")
    most = min(length // 2, length - 3)  # two are special tokens, and one is new in each window
    if (long == "windows" or not classifies) and stride > most:
        yield f"tokens.stride: found {stride}; windows of {length} tokens can share at most {most}"
    if classifies and long != "windows" and stride:
        yield f"tokens.stride: found {stride}; it needs tokens.long: windows; set that, or leave this out"
    if raw["task"] == "question-answering" and length < SHORTEST_WINDOW:
        yield f"tokens.max_length: found {length}; a question and its context need at least {SHORTEST_WINDOW}"
    if not classifies and long not in (None, "windows"):
        yield f"tokens.long: found {long!r}; {raw['task']} always reads whole texts in windows: leave it out"
    if classifies and long in ("windows", "head+tail") and _part(raw, "data").get("text_pair"):
        yield f"tokens.long: found {long!r}; pairs of texts are always truncated, longest first: leave it out"


def _of_labels(raw: dict[str, Any], problem: ProblemType | None) -> Iterator[str]:
    """Yield the faults in labels, their columns and their weights."""
    data, training = _part(raw, "data"), _part(raw, "training")
    if problem not in ("single_label_classification", None) or raw["task"] == "question-answering":
        for key in ("label_smoothing", "class_weights"):
            if training.get(key):
                rule = "it is for single-label classification and entities"
                yield f"training.{key}: found {training[key]!r}; {rule}: leave it out"
    weights = training.get("class_weights")
    if isinstance(weights, dict) and not all(0 <= weight < inf for weight in weights.values()):
        yield f"training.class_weights: found {weights!r}; weights must be finite and not negative"
    labels, columns = data.get("labels"), data.get("label")
    if labels is not None and (problem == "regression" or raw["task"] == "question-answering"):
        yield f"data.labels: found {labels!r:.60}; this task has none: leave it out"
    if isinstance(columns, list):
        if problem != "multi_label_classification":
            yield f"data.label: found {columns!r:.60}; one column per label is for multi_label_classification only"
        if labels is not None:
            yield f"data.labels: found {labels!r:.60}; the columns of data.label name the labels: leave it out"
        if len(set(columns)) < len(columns):
            yield f"data.label: found {columns!r}; each column is named once"
    if problem == "single_label_classification" and labels is not None and len(labels) < 2:
        yield f"data.labels: found {labels!r}; a classifier needs two labels"
    if labels is not None and len(set(labels)) < len(labels):
        yield f"data.labels: found {labels!r}; each label is named once"


def _of_teacher(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the keys that need a teacher, or a teacher that leaves the labels a share of the loss."""
    if raw.get("teacher"):
        yield from _of_labels_loss(raw)
        temperature, usual = _part(raw, "distillation").get("temperature"), Distillation().temperature
        if raw.get("problem_type") == "regression" and temperature not in (None, usual):
            yield f"distillation.temperature: found {temperature!r}; it has no effect on a regression: leave it out"
        return
    asked = {"data.unlabelled": _part(raw, "data").get("unlabelled"), "distillation": raw.get("distillation")}
    for key, found in asked.items():
        if found and found != Distillation().model_dump():  # resolved recipes have the defaults written out
            yield f"{key}: found {found!r:.60}; it needs a teacher: name one, or leave it out"


def _of_labels_loss(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the settings of the label loss where the loss is all the teacher's and nothing is pruned by the labels."""
    distillation, student, training = (_part(raw, name) for name in ("distillation", "student", "training"))
    is_pruned = student.get("attention_heads") or student.get("intermediate_size")
    if distillation.get("weight", Distillation().weight) < 1 or is_pruned:
        return
    for key in ("label_smoothing", "class_weights"):
        if training.get(key):
            advice = "labels have no share in the loss if distillation.weight is 1: lower it, or leave this out"
            yield f"training.{key}: found {training[key]!r:.60}; {advice}"


def _of_monitors(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the monitors that are configured but not enabled."""
    mlflow = _part(raw, "mlflow")
    if "tracking_uri" not in mlflow and mlflow.get("experiment", default := Mlflow().experiment) != default:
        yield f"mlflow.experiment: found {mlflow['experiment']!r}; without mlflow.tracking_uri nothing is tracked"
    for name in MONITORS:
        section = _part(raw, "deepspeed").get(name)
        if isinstance(section, dict) and section and "enabled" not in section:
            yield f"deepspeed.{name}: has no effect without enabled: true"


def _part(raw: dict[str, Any], name: str) -> dict[str, Any]:
    return raw.get(name) or {}


def _of_data(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of the files that the recipe names, as far as they are on this machine."""
    data = _part(raw, "data")
    for name in ("train", "validation", "test", "unlabelled"):
        place = data.get(name)
        if place is None or (isinstance(place, str) and places.is_hub_id(place)):
            continue
        try:
            found = [(path, tables.columns(path)) for path in places.data_files(place, name)]
        except InputError as error:
            yield from (f"data.{name}: {fault}" for fault in error.faults)
            continue
        for path, columns in found:
            if tables.kind(path)[0] in FLAT and _reads_lists(raw, name, columns):
                yield f"data.{name}: {path}: {LISTS[raw['task']]}"
                continue
            for key, column in _needed(raw, name, path, columns).items():
                if column is not None and column not in columns:
                    yield f"{key}: {tables.lacking(path, [column], columns)}"


def _reads_lists(raw: dict[str, Any], name: str, columns: Sequence[str]) -> bool:
    """Whether a column that is read from a split holds lists: tokens, tags, entities or answers."""
    if name == "unlabelled":
        return raw.get("task") == "token-classification" and raw["data"].get("text", "text") not in columns
    return raw.get("task") in LISTS


def _needed(raw: dict[str, Any], name: str, path: Path, columns: Sequence[str]) -> dict[str, str | None]:
    """The columns that a file must have, by recipe key; None where a key names no column.

    For JSON only the first row's columns are known: columns that a row may lack are not required, nor are labels where
    `data.where` may leave that row out.
    """
    sparse = tables.kind(path)[0] in SPARSE
    may_lack = sparse and bool(raw["data"].get("where"))
    data, asked = raw["data"], raw.get("task", "")
    *texts, gold = COLUMNS.get(asked, (None,))
    whole = data.get("text", "text") in columns and (
        name == "unlabelled"
        or data.get("entities", "entities") in columns
        or data.get("tokens", "tokens") not in columns
    )
    if asked == "token-classification" and whole:  # whole texts, with entities marked in them
        texts, gold = ["text"], "entities"
    if asked == "question-answering" and sparse and "is_impossible" in columns:
        gold = None
    needed = {f"data.{key}": data.get(key, key) for key in texts} | {"data.text_pair": data.get("text_pair")}
    if name == "unlabelled":
        return needed
    golden = [] if gold is None or may_lack else data.get(gold, gold)
    if isinstance(golden, list):
        needed |= {f"data.{gold}.{number}": column for number, column in enumerate(golden)}
    else:
        needed[f"data.{gold}"] = golden
    needed |= {f"data.where.{column}": column for column in data.get("where", {}) if not sparse}
    groups = {"search.groups": (raw.get("search") or {}).get("groups")}
    return needed if name == "test" else needed | groups


def _of_models(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of the folders of model and teacher, and what the recipe asks of the model in vain."""
    try:
        config = None if raw.get("model") is None else _config(raw["model"])
        yield from () if config is None else of_model(config, raw)
    except InputError as error:
        yield from (f"model: {fault}" for fault in error.faults)
    try:
        teacher = raw.get("teacher")
        if teacher is not None and not (places.expanded(teacher) / bundle.MANIFEST).is_file():
            _config(teacher)
    except InputError as error:
        yield from (f"teacher: {fault}" for fault in error.faults)


def _config(place: str) -> dict[str, Any] | None:
    """The config.json of a checked model; None for a hub model, which is checked once it is downloaded.

    Raises:
        InputError: see `encoder.check`; or the run did not finish, or there is no such model.
    """
    places.check_model_id(place)
    return None if places.is_hub_id(place) else encoder.check(run.model(place))


def of_model(config: dict[str, Any], raw: dict[str, Any]) -> Iterator[str]:
    """Yield what a recipe (as plain data) asks of a model that its config.json rules out."""
    length = raw.get("tokens", {}).get("max_length", Tokens().max_length)
    if length > (most := encoder.max_tokens(config)):
        yield f"tokens.max_length: found {length}; {raw['model']} holds at most {most} tokens"
    layers = encoder.layers(config)
    kept = raw.get("student", {}).get("layers")
    if kept is not None and (kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= layers):
        yield f"student.layers: found {kept}; name some of 0 to {layers - 1}, each once, in order"
    training = raw.get("training", {})
    frozen, decay = training.get("freeze", {}).get("layers", 0), training.get("layer_decay", 1)
    if config["model_type"] == "albert":
        for key, asked in (("freeze.layers", frozen > 0), ("layer_decay", decay < 1)):
            if asked:
                yield f"training.{key}: all layers of {raw['model']} share their weights: leave it out"
    if frozen > (most := layers if kept is None else len(kept)):
        yield f"training.freeze.layers: found {frozen}; {raw['model']} has {most} layers"
