"""Faults of keys that the task, the model or another key rules out."""

from collections.abc import Iterator
from itertools import chain
from math import inf
from typing import Any

from bertline.artifacts import task
from bertline.artifacts.faults import models
from bertline.artifacts.recipe_schema import (
    COLUMNS,
    INPUTS,
    LOSSES,
    MONITORS,
    SHORTEST_WINDOW,
    Data,
    Distillation,
    Mlflow,
    Tokens,
)
from bertline.artifacts.task import ProblemType


def of(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the values that the task or the model does not allow."""
    yield from _of_task(raw)
    yield from models.of(raw)


def _of_task(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the keys that contradict the task or each other."""
    if "task" not in raw:
        return
    classifies = raw["task"] == "text-classification"
    if not classifies and raw.get("problem_type"):
        yield f"problem_type: found {raw['problem_type']!r}; it is for text-classification only: leave it out"
    problem: ProblemType | None = (raw.get("problem_type") or "single_label_classification") if classifies else None
    known = (*task.scores(raw["task"], problem), *LOSSES[: 2 if problem == "regression" else 1])
    if (best := raw.get("training", {}).get("best")) is not None and best not in known:
        yield f"training.best: found {best!r}; this task is measured in {', '.join(known)}"
    yield from _of_columns(raw)
    yield from _of_tokens(raw)
    yield from _of_labels(raw, problem)
    yield from _of_teacher(raw)
    yield from _of_monitors(raw)


def _of_columns(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the columns that only other tasks read."""
    data, optional = raw.get("data", {}), {"text-classification": "text_pair", "token-classification": "entities"}
    own = {*COLUMNS[raw["task"]], *INPUTS[raw["task"]], optional.get(raw["task"])}
    for key in sorted({*optional.values(), *chain(*COLUMNS.values())} - own):
        if data.get(key, default := Data.model_fields[key].default) != default:
            yield f"data.{key}: found {data[key]!r:.60}; {raw['task']} reads no such column: leave it out"


def _of_tokens(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the faults in how long texts are read."""
    tokens, classifies = raw.get("tokens", {}), raw["task"] == "text-classification"
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
    if classifies and long in ("windows", "head+tail") and raw.get("data", {}).get("text_pair"):
        yield f"tokens.long: found {long!r}; pairs of texts are always truncated, longest first: leave it out"


def _of_labels(raw: dict[str, Any], problem: ProblemType | None) -> Iterator[str]:
    """Yield the faults in labels, their columns and their weights."""
    data, training = raw.get("data", {}), raw.get("training", {})
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
        temperature, usual = raw.get("distillation", {}).get("temperature"), Distillation().temperature
        if raw.get("problem_type") == "regression" and temperature not in (None, usual):
            yield f"distillation.temperature: found {temperature!r}; it has no effect on a regression: leave it out"
        return
    asked = {"data.unlabelled": raw.get("data", {}).get("unlabelled"), "distillation": raw.get("distillation")}
    for key, found in asked.items():
        if found and found != Distillation().model_dump():  # resolved recipes have the defaults written out
            yield f"{key}: found {found!r:.60}; it needs a teacher: name one, or leave it out"


def _of_labels_loss(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the settings of the label loss where the loss is all the teacher's and nothing is pruned by the labels."""
    distillation, student, training = (raw.get(name, {}) for name in ("distillation", "student", "training"))
    is_pruned = student.get("attention_heads") or student.get("intermediate_size")
    if distillation.get("weight", Distillation().weight) < 1 or is_pruned:
        return
    for key in ("label_smoothing", "class_weights"):
        if training.get(key):
            advice = "labels have no share in the loss if distillation.weight is 1: lower it, or leave this out"
            yield f"training.{key}: found {training[key]!r:.60}; {advice}"


def _of_monitors(raw: dict[str, Any]) -> Iterator[str]:
    """Yield the monitors that are configured but not enabled."""
    mlflow = raw.get("mlflow", {})
    if "tracking_uri" not in mlflow and mlflow.get("experiment", default := Mlflow().experiment) != default:
        yield f"mlflow.experiment: found {mlflow['experiment']!r}; without mlflow.tracking_uri nothing is tracked"
    for name in MONITORS:
        section = raw.get("deepspeed", {}).get(name)
        if isinstance(section, dict) and section and "enabled" not in section:
            yield f"deepspeed.{name}: has no effect without enabled: true"
