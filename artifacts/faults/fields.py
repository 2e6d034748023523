"""Faults of single fields: unknown keys, each with the key that may be meant, and wrong types and values."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic import ValidationError

from bertline.artifacts.recipe_schema import Recipe, Section

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


def of(raw: dict[str, Any]) -> dict[str, str]:
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


def kind(value: Any) -> str:
    """Type and value of what was found, for a message."""
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key of a pydantic location, without the names of union members, which are not keys."""
    if location[-1:] == ("[key]",):  # a key that is no string, which pydantic may spell as another: True as 1
        location = location[:-2]
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
