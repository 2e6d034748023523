"""What is wrong with the `search` section of a recipe, including the values to be tried.

Each value is put into the recipe in turn, then the values of any two keys together; the faults of the resulting recipes
are reported.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement, permutations, product
from typing import Any

from bertline.artifacts import dotted
from bertline.artifacts.errors import InputError
from bertline.artifacts.faults import choices, fields
from bertline.artifacts.recipe_schema import Search

FIXED = ("name", "task", "problem_type", "data", "training.seed", "training.best", "search")
"""Keys that must be the same in all trials: by these, trials are named, split and compared."""
OF_LOSS = ("training.label_smoothing", "training.class_weights")
"""Keys that define the loss: they must be the same too, if trials are compared by it."""
OF_WINDOWS = ("model", "tokens.long", "tokens.max_length", "tokens.stride")
"""Keys that define the windows: they must be the same too, if the loss is a mean over windows."""

Raw = dict[str, Any]


def of(raw: Raw, asked: bool) -> Iterator[str]:
    """Yield one sentence for each fault of a recipe's `search`.

    Args:
        raw: the recipe as plain data, without the keys that `fields.of` finds wrong.
        asked: whether the recipe must say what to search.
    """
    search = raw.get("search", {})
    given = [kind for kind in ("grid", "space") if search.get(kind)]
    if len(given) == 2:
        yield "search: found grid and space; give one: all combinations, or a sample of them"
    elif asked and not given:
        yield "search: nothing to try; give grid or space, for example grid: {training.learning_rate: [2e-5, 3e-5]}"
    for key in ("trials", "sampler") if given == ["grid"] else ():
        if search.get(key, default := getattr(Search(), key)) != default:
            yield f"search.{key}: found {search[key]!r}; a grid tries all its combinations: leave it out"
    found: dict[str, None] = {}
    values = {key: _find_values(kind, value) for kind in given for key, value in search[kind].items()}
    same = _same(raw, values)
    for kind in given:
        for key, value in search[kind].items():
            if fixed := [each for each in same if f"{key}.".startswith(f"{each}.") or each.startswith(f"{key}.")]:
                found[_of_fixed(f"search.{kind}.{key}", fixed[0])] = None
            else:
                found |= dict.fromkeys(_of_key(raw, f"search.{kind}", key, value, _find_values(kind, value)))
    nested = [pair for pair in permutations(values, 2) if pair[1].startswith(f"{pair[0]}.")]
    if nested and not found:
        outer, inner = nested[0]
        found[f"search: {outer} and {inner}: one is part of the other; search only one of them"] = None
    yield from found or _of_pairs(raw, values)


def _find_values(kind: str, value: Any) -> list[Any]:
    """The values of a list, or the ends of a range; none if it is neither."""
    if isinstance(value, list):
        return value
    if kind == "grid" or not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        return []
    low, high, log = value["low"], value["high"], value.get("log", False)
    sound = all(type(each) in (int, float) and math.isfinite(each) for each in (low, high)) and type(log) is bool
    return [low, high] if sound and low < high and (low > 0 or not log) else []


def _of_fixed(place: str, key: str) -> str:
    """The message that a key cannot be searched."""
    rule = f"{key} must be the same in all trials, which are named, split or compared by it"
    other = ", or compare by another training.best than loss" if key not in FIXED else ""
    return f"{place}: {rule}; search other keys, each by its own name{other}"


def _of_key(raw: Raw, place: str, key: str, value: Any, values: list[Any]) -> Iterator[str]:
    """Yield the faults of a key's values."""
    if not values:
        ranged = ", or {low: 1e-5, high: 1e-4, log: true}, low under high" if place.endswith("space") else ""
        yield f"{place}.{key}: found {value!r:.60}; expected a list of values{ranged}"
    before = fields.of(raw)
    for each in values:
        try:
            told = fields.of(_put(raw, {key: each}))
        except InputError as error:
            yield f"{place}.{key}: {error}"
            return
        yield from (f"{place}.{fault}" for at, fault in told.items() if at not in before)


def _same(raw: Raw, values: Mapping[str, list[Any]]) -> Sequence[str]:
    """The keys that must be the same in all trials of a recipe, given the values they try."""
    if raw.get("training", {}).get("best") != "loss":
        return FIXED
    return (*FIXED, *OF_LOSS, *(OF_WINDOWS if _has_windows(raw, values) else ()))


def _has_windows(raw: Raw, values: Mapping[str, list[Any]]) -> bool:
    """Whether any trial reads texts in windows, as far as the task is known."""
    if raw.get("task") != "text-classification":
        return "task" in raw
    sections = [raw.get("tokens"), *values.get("tokens", [])]
    read = [each.get("long") for each in sections if isinstance(each, dict)]
    return "windows" in [*read, *values.get("tokens.long", [])]


def _of_pairs(raw: Raw, values: Mapping[str, list[Any]]) -> Iterator[str]:
    """Yield the combinations of two keys' values that are not allowed, all other keys having their first values."""
    known = set(choices.of(raw))
    first = {key: some[0] for key, some in values.items()}
    for keys in combinations_with_replacement(values, 2):
        for pair in product(*(values[key] for key in keys)):
            settings = dict(zip(keys, pair, strict=True))
            for fault in choices.of(_put(raw, first | settings)):
                if fault not in known:
                    known.add(fault)
                    yield f"search: {', '.join(f'{key}={value!r}' for key, value in settings.items())}: {fault}"


def _put(raw: Raw, settings: Mapping[str, Any]) -> Raw:
    """A copy of a recipe with new values for dotted keys."""
    trial = copy.deepcopy(raw)
    for key, value in settings.items():
        dotted.put(trial, key, value)
    return trial
