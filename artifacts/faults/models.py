"""Faults of the model and the teacher that a recipe names, as far as they are on this machine."""

from collections.abc import Iterator
from typing import Any

from bertline.artifacts import bundle, encoder, places, run
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Tokens


def of(raw: dict[str, Any]) -> Iterator[str]:
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


def _config(place: str) -> dict[str, Any] | None:
    """The config.json of a checked model; None for a hub model, which is checked once it is downloaded.

    Raises:
        InputError: see `encoder.check`; or the run did not finish, or there is no such model.
    """
    places.check_model_id(place)
    return None if places.is_hub_id(place) else encoder.check(run.model(place))
