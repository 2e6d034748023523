"""The recipe: one YAML file that defines a run and is checked completely before anything is loaded."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bertline.artifacts import dotted, encoder, files, run
from bertline.artifacts.errors import InputError, one_line
from bertline.artifacts.faults import choices, data, fields, models, search
from bertline.artifacts.recipe_schema import MONITORS, Recipe

WATCHERS = ("mlflow", *(f"deepspeed.{name}" for name in MONITORS))
"""Sections of monitors; the addresses in them are not published."""
HARMLESS = (
    "training.gradient_checkpointing", "training.logging_steps", "training.micro_batch_size", "training.save_steps",
    "training.save_total_limit", "training.timeout", *WATCHERS,
)  # fmt: skip
"""Keys and sections whose values may change when a run is resumed: its steps see the same batches, though a different
micro-batch size draws different dropout masks."""


def load(path: Path, overrides: Sequence[str] = (), searches: bool = False) -> Recipe:
    """Read a recipe, apply `KEY=VALUE` overrides (dotted keys, YAML values) and check it.

    Args:
        path: YAML file.
        overrides: KEY=VALUE strings.
        searches: whether the recipe must say what to search.

    Raises:
        InputError: lists every fault of the recipe and of the files it names.
    """
    raw = _read(path)
    for override in overrides:
        _override(raw, override)
    if raw.get("teacher") is not None:
        raw.setdefault("model", raw["teacher"])
    faults = fields.of(raw)
    sound = dotted.without(raw, faults)  # so that the rest can be checked, also against the files it names
    if told := [*faults.values(), *choices.of(sound), *data.of(sound), *search.of(sound, searches)]:
        raise InputError(*(f"{path}: {fault}" for fault in told))
    return Recipe.model_validate(raw)


def read(path: Path) -> Recipe:
    """Read the resolved recipe of a run, without checking the files it names, which may be gone.

    Raises:
        InputError: it is not a recipe of this version.
    """
    raw = _read(path)
    if faults := fields.of(raw):
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
        InputError: there is none; the message begins with the recipe's key.
    """
    try:
        return run.model(recipe.model, weights)
    except InputError as error:
        raise InputError(*(f"model: {fault}" for fault in error.faults)) from error


def check_model(recipe: Recipe, folder: Path, weights: bool = True) -> None:
    """Check that a model fits its recipe; for a hub model, that is possible only once it is downloaded.

    Args:
        recipe: the recipe that names the model.
        folder: the folder of the model.
        weights: whether the folder must hold weights.

    Raises:
        InputError: lists every fault found.
    """
    if faults := list(models.of_model(encoder.check(folder, weights), recipe.model_dump(mode="json"))):
        raise InputError(*faults)


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A copy of the recipe with new values for dotted keys."""
    raw = recipe.model_dump(mode="json")
    for key, value in settings.items():
        dotted.put(raw, key, value)
    return Recipe.model_validate(raw)


def differences(now: Recipe, then: Recipe, besides: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two recipes differ, with both values; keys and sections in `besides` are ignored."""
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
"""What PyYAML raises: ValueError for invalid text or dates, RecursionError for nesting that is too deep."""
_FLOAT = re.compile(r"[-+]?((\.\d+|\d+(\.\d*)?)[eE][-+]?\d+|\d+\.\d*|\.\d+)$")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 2e-5 is a number (YAML 1.1 requires 2.0e-5), and a duplicate key is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value]  # as written: << merges others in later
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.composer.ComposerError(None, None, f"key {key[1]!r} occurs twice", mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes strings that `_Loader` would read as numbers."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader: plain data only
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a recipe is a YAML file, see launch/recipes/") from None
    except YAML_ERRORS as error:
        raise InputError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds {fields.kind(raw)}, not a mapping of keys; see launch/recipes/")
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
        raise InputError(f"--set {override}: {value!r} is not YAML: {one_line(error)}") from None
