"""What a run would see, reported before a GPU is paid for: every row is read and tokenized, but no model is loaded."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bertline.artifacts import recipe as recipes
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.sequences import batched, evenly_spaced
from bertline.artifacts.task import Tokens
from bertline.models import tokenizer_json
from bertline.tasks import bootstrap
from bertline.tasks.labels import NUMBER
from bertline.tasks.task import Example, Task
from bertline.tasks.tokens import Tokenizer
from bertline.tasks.words import words
from bertline.train.data import splitting
from bertline.train.data.mapped import ROWS
from bertline.train.data.splitting import Splits
from bertline.train.progress import Progress

SHOWN = 10
IMBALANCE = 10
"""How many times as common as the rarest label the commonest may be before a warning."""
RARE = {
    "single_label_classification": "look at macro_f1 or per_label rather than at accuracy",
    "multi_label_classification": "look at macro_f1 or per_label rather than at micro_f1",
    "token-classification": "look at per_label rather than at f1, which pools all entities",
    "question-answering": "f1 and exact_match say little about the rarer one",
}
"""Which scores to look at when a label is rare, by problem type or task."""
LARGE = 5
"""Mean or standard deviation of numeric labels above which a usual run at the default learning rate falls short."""
MISSING = {"nan", "none", "null"}
"""How pandas, Python and JSON spell a missing label."""
WEIGHED = ("single_label_classification", "token-classification")
"""Problem types and tasks whose labels may have weights."""


def survey(recipe: Recipe) -> dict[str, Any]:
    """Read all the data that a recipe names, reporting slow steps on stderr.

    Returns:
        examples and labels (counts by split), duplicates, leaked, contradicting, tokens (percentiles of length, and
        the share of texts longer than max_length), shown (a few examples as the model reads them), provable_drop (the
        smallest drop that an export can show on the validation split if every answer is correct; None where that
        depends on the answers), and warnings (sentences).

    Raises:
        InputError: as `splitting.make`; or the model has no tokenizer.
    """
    model_folder = recipes.model_folder(recipe, weights=False)
    recipes.check_model(recipe, model_folder, weights=False)
    with (
        TemporaryDirectory(prefix="bertline-check-") as scratch,
        tokenizer_json.temporary(model_folder) as folder,
    ):
        progress = Progress(speaks=True)
        progress.say(f"reading {recipe.data.train}")
        splits = splitting.make(recipe, Path(scratch))
        progress.say(f"tokenizing {len(splits.train):,} texts")
        lengths = _whole_lengths(splits.train, folder, progress)
        return _report(recipe, splits, lengths, splits.task.tokenizer(folder))


def _report(recipe: Recipe, splits: Splits, lengths: Sequence[int], tokenizer: Tokenizer) -> dict[str, Any]:
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "task": recipe.task,
        "examples": splits.counts(),
        "labels": {name: _labels(splits.task, examples) for name, examples in named.items()},
        "duplicates": splits.duplicates,
        "leaked": splits.leaked,
        "contradicting": splits.contradicting,
        "tokens": _lengths(lengths, recipe.tokens.max_length),
        "shown": [_shown(example, tokenizer) for example in evenly_spaced(splits.train, SHOWN)],
        "provable_drop": _provable_drop(splits, recipe),
        "warnings": list(_warnings(splits, lengths, recipe)),
    }


def _whole_lengths(examples: Sequence[Example], folder: Path, progress: Progress) -> list[int]:
    """The number of tokens in each text, without truncation."""
    whole = Tokenizer(folder, Tokens(max_length=1 << 30))
    texts = batched((example.texts for example in examples), ROWS)
    tracked = progress.track(texts, -(-len(examples) // ROWS), "tokenizing")
    return [len(window.input_ids) for some in tracked for window in whole.encode(some)]


def _shown(example: Example, tokenizer: Tokenizer) -> dict[str, Any]:
    windows = tokenizer.encode([example.texts])
    return {
        "gold": _gold(example),
        "tokens": len(windows[0].input_ids),
        "windows": len(windows),
        "truncated": windows[0].truncated,
        "read": tokenizer.decode(windows[0]),
    }


def _gold(example: Example) -> Any:
    """The gold value; entities come with their text."""
    if not isinstance(example.gold, list):
        return example.gold
    return [
        {"text": example.text[one["start"] : one["end"]], **one} if isinstance(one, dict) and "label" in one else one
        for one in example.gold
    ]


def _labels(task: Task, examples: Sequence[Example]) -> dict[str, int]:
    """How often each label occurs; for entities, each type."""
    counts: Counter[str] = Counter()
    for example in examples:
        counts.update(task.named(example))
    return dict(sorted(counts.items()))


def _lengths(lengths: Sequence[int], max_length: int) -> dict[str, Any]:
    p50, p90, p99 = (int(value) for value in np.percentile(lengths, (50, 90, 99)))
    longer = float(np.mean(np.asarray(lengths) > max_length))
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": max(lengths),
        "max_length": max_length,
        "longer_share": round(longer, 4),
    }


def _provable_drop(splits: Splits, recipe: Recipe) -> float | None:
    task, examples = splits.task, list(splits.validation)
    scores = task.settings.scores
    metric = recipe.metric if recipe.metric in scores else scores[0]
    if not bootstrap.has_constant_loss(task, metric, examples):
        return None
    return bootstrap.unseen(task, metric, examples) or None


def _warnings(splits: Splits, lengths: Sequence[int], recipe: Recipe) -> Iterator[str]:
    """What is valid, but seldom intended."""
    if splits.leaked:
        yield f"{splits.leaked:,} training rows also appear in a held-out split; they are left out of training"
    if more := splits.duplicates - splits.leaked:
        yield f"{more:,} training rows repeat an earlier one; they are left out of training"
    if splits.contradicting:
        yield splits.left_out
    everything = chain(splits.train, splits.validation, splits.test)
    if empty := sum(not any((part or "").strip() for part in example.texts) for example in everything):
        yield f"{empty:,} texts are empty"
    counts = _labels(splits.task, splits.train)
    yield from _spelling_warnings(counts, recipe)
    if counts and max(counts.values()) > IMBALANCE * min(counts.values()):
        rarest, commonest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        times = f"{counts[commonest] / counts[rarest]:.0f} times"
        yield f"{commonest!r} appears {times} as often as {rarest!r}: {_advice(recipe)}"
    for name, examples in {"validation": splits.validation, "test": splits.test}.items():
        yield from _held_out_warnings(name, examples, splits, recipe)
    if recipe.problem_type == "regression":
        yield from _scale_warnings(splits)
    if recipe.task == "token-classification":
        yield from _entity_warnings(splits)
    longer = float(np.mean(np.asarray(lengths) > recipe.tokens.max_length))
    if longer > 0.05 and recipe.settings([]).tokens.long != "windows":
        yield f"{longer:.0%} of the texts are longer than max_length {recipe.tokens.max_length} and are cut off"


def _spelling_warnings(labels: Iterable[str], recipe: Recipe) -> Iterator[str]:
    """Warn of label names that most likely mean the same label, or a missing one."""
    alike: dict[str | float, list[str]] = {}
    for label in labels:
        folded = " ".join(label.split()).casefold()
        alike.setdefault(float(folded) if NUMBER.fullmatch(folded) else folded, []).append(label)
    for names in alike.values():
        if len(names) > 1:
            yield f"{', '.join(map(repr, names))} count as {len(names)} labels; if they mean one, spell them the same"
    for name in MISSING & alike.keys():
        one = recipe.settings([]).problem_type == "single_label_classification"
        advice = f"; data.where: {{{recipe.data.label}: [the others]}} leaves such rows out" if one else ""
        yield f"{alike[name][0]!r} counts as a label, though it may mean that there is none{advice}"


def _entity_warnings(splits: Splits) -> Iterator[str]:
    """Warn of entities that no answer can match, because only whole words have labels."""
    count, inside = 0, []
    for example in chain(splits.train, splits.validation, splits.test):
        spans = words(example.text) if example.gold else []
        edges = set(chain.from_iterable(spans))
        for entity in example.gold:
            start, end = entity["start"], entity["end"]
            count += 1
            if not {start, end} <= edges:
                own = [span for span in spans if span[0] < end and start < span[1]]
                inside.append((example.text[start:end], example.text[own[0][0] : own[-1][1]]))
    if inside:
        yield (
            f"{len(inside):,} of {count:,} entities begin or end inside a word, like {inside[0][0]!r} in "
            f"{inside[0][1]!r}: only whole words have labels, so these cannot be found exactly"
        )


def _held_out_warnings(name: str, examples: Sequence[Example], splits: Splits, recipe: Recipe) -> Iterator[str]:
    """Warn of what makes the scores of a held-out split misleading."""
    if more := len(examples) - len({splitting.digest(one.texts) for one in examples}):
        yield f"{more:,} {name} examples repeat the text of an earlier one; each counts in the scores"
    which, what = (1, "context") if recipe.task == "question-answering" else (0, "first text")
    trained = {splitting.digest(one.texts[which:][:1]) for one in splits.train if one.text_pair is not None}
    if count := sum(splitting.digest(one.texts[which:][:1]) in trained for one in examples):
        yield f"{count:,} {name} examples share their {what} with training examples; their scores are optimistic"
    if unseen := _labels(splits.task, splits.train).keys() - _labels(splits.task, examples).keys():
        labels = ", ".join(map(repr, sorted(unseen)))
        yield f"no {name} example has the label {labels}; it is not measured there, and a macro average counts it as 0"


def _scale_warnings(splits: Splits) -> Iterator[str]:
    """Warn of numeric labels far from 0."""
    values = np.array([example.gold for example in splits.train], np.float64)
    mean, deviation = values.mean(), values.std()
    if max(abs(mean), deviation) > LARGE:
        yield (
            f"the labels have a mean of {mean:,.4g} and a standard deviation of {deviation:,.4g}; a model starts near "
            "0 and learns such values slowly: subtract the mean and divide by the standard deviation"
        )


def _advice(recipe: Recipe) -> str:
    """What to do about a rare label, as far as the recipe allows it."""
    kind = recipe.settings([]).problem_type or recipe.task
    in_loss = recipe.teacher is None or recipe.distillation.weight < 1
    return RARE[kind] + ("; training.class_weights may help" if kind in WEIGHED and in_loss else "")
