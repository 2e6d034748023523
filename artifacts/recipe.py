"""The recipe: one YAML file that says all of a run, checked whole before anything is loaded."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bertline.artifacts import dotted, encoder, files, recipe_faults, run, search_faults
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import MONITORS, Recipe

WATCHERS = ("mlflow", *(f"deepspeed.{name}" for name in MONITORS))
"""Sections that say who else is told of a run; their addresses are not for everyone."""
HARMLESS = (
    "training.gradient_checkpointing", "training.logging_steps", "training.micro_batch_size", "training.save_steps",
    "training.save_total_limit", "training.timeout", *WATCHERS,
)  # fmt: skip
"""Keys, and sections, that a run may go on with other values of: its steps see the same batches, though a micro-batch
of another size draws other dropout."""


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
    if faults := [*recipe_faults.of(raw), *search_faults.of(raw, searches)]:
        raise InputError(*(f"{path}: {fault}" for fault in faults))
    return Recipe.model_validate(raw)


def read(path: Path) -> Recipe:
    """Read the resolved recipe of a run, without looking for what it names: that may be gone since.

    Raises:
        InputError: it is no recipe of this version.
    """
    raw = _read(path)
    if faults := recipe_faults.of_schema(raw):
        raise InputError(*(f"{path}: {fault}" for fault in faults.values()))
    return Recipe.model_validate(raw)


def published(path: Path) -> dict[str, Any]:
    """The resolved recipe of a run of any version, without WATCHERS.

    Raises:
        InputError: the file holds no recipe.
    """
    return dotted.without(_read(path), WATCHERS)


def model_folder(recipe: Recipe, weights: bool = True) -> Path:
    """The folder of the model that a recipe names, as `run.model` finds it.

    Raises:
        InputError: there is none; the fault begins with the recipe's key.
    """
    try:
        return run.model(recipe.model, weights)
    except InputError as error:
        raise InputError(*(f"model: {fault}" for fault in error.faults)) from error


def check_model(recipe: Recipe, folder: Path, weights: bool = True) -> None:
    """Refuse what a recipe asks of a model that it does not have: known of a hub's only once it is here.

    Args:
        recipe: that names it.
        folder: of the model.
        weights: whether it must hold them.

    Raises:
        InputError: every fault found.
    """
    if faults := list(recipe_faults.of_model(encoder.check(folder, weights), recipe.model_dump(mode="json"))):
        raise InputError(*faults)


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of dotted keys."""
    raw = recipe.model_dump(mode="json")
    for key, value in settings.items():
        dotted.put(raw, key, value)
    return Recipe.model_validate(raw)


def differences(now: Recipe, then: Recipe, besides: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The dotted keys, `besides` those and the sections named, in which two recipes differ, with both values."""
    raw = (dotted.without(recipe.model_dump(mode="json"), besides) for recipe in (now, then))
    ours, theirs = (dict(dotted.flat(one)) for one in raw)
    keys = sorted({*ours, *theirs})
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    raw = recipe.model_dump(mode="json")
    return str(yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def save(recipe: Recipe, path: Path) -> None:
    """Write `dump(recipe)` atomically."""
    files.write_text(path, dump(recipe))


YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: ValueError of bytes that are no text and dates that are none, the last of nesting without end."""
_FLOAT = re.compile(r"[-+]?((\.\d+|\d+(\.\d*)?)[eE][-+]?\d+|\d+\.\d*|\.\d+)$")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 2e-5 is a number (YAML 1.1 asks for 2.0e-5), a key given twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value]  # as they are written: << merges others in later on
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.composer.ComposerError(None, None, f"key {key[1]!r} stands twice", mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Puts into quotation marks what `_Loader` would take for a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader: plain data only
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a recipe is a YAML file, see launch/recipes/") from None
    except YAML_ERRORS as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds {recipe_faults.kind(raw)}, not a mapping of keys; see launch/recipes/")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {override}: not KEY=VALUE, for example training.learning_rate=3e-5")
    try:
        dotted.put(raw, key, yaml.load(value, _Loader))  # noqa: S506 - a SafeLoader
    except InputError as error:
        raise InputError(f"--set {override}: {error}") from None
    except YAML_ERRORS as error:
        raise InputError(f"--set {override}: {value!r} is not YAML: {' '.join(str(error).split())}") from None
