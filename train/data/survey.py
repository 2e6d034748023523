"""What a run would really see, before a GPU is paid for: every row is read and tokenized, no model is loaded."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bertline.artifacts import recipe as recipes
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.tables import batched, from_all_over
from bertline.artifacts.task import Tokens
from bertline.models import tokenizer_json
from bertline.tasks import bootstrap
from bertline.tasks.task import NUMBER, Example, Task
from bertline.tasks.tokens import Tokenizer
from bertline.train.data import splitting
from bertline.train.data.mapped import ROWS
from bertline.train.data.splitting import Splits
from bertline.train.progress import Progress

SHOWN = 10
IMBALANCE = 10
"""How many times as often as the rarest the commonest label may stand before it is told."""
RARE = {
    "single_label_classification": "look at macro_f1 or per_label rather than at accuracy",
    "multi_label_classification": "look at macro_f1 or per_label rather than at micro_f1",
    "token-classification": "look at per_label rather than at f1, which is of all entities together",
    "question-answering": "f1 and exact_match tell little of the rarer",
}
"""Where a rare label shows, by problem type or task."""
LARGE = 5
"""Of the mean or the standard deviation of numbers: as far as the default learning rate comes in a usual run."""
MISSING = {"nan", "none", "null"}
"""What a file has where there was no label, as pandas, Python and JSON spell it."""
WEIGHED = ("single_label_classification", "token-classification")
"""Where labels may have weights."""


def survey(recipe: Recipe) -> dict[str, Any]:
    """Read all that a recipe names, and tell a person on stderr what takes long.

    Returns:
        examples and labels (counts by split), duplicates, leaked, contradicting, tokens (percentiles of length, and
        what part of the texts is longer than max_length), shown (a few examples as the model reads them),
        provable_drop (the least drop that an export can show by the validation split, if every answer is right; None
        where that is known by the answers alone), and warnings (sentences).

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
        return _told(recipe, splits, lengths, splits.task.tokenizer(folder))


def _told(recipe: Recipe, splits: Splits, lengths: Sequence[int], tokenizer: Tokenizer) -> dict[str, Any]:
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "task": recipe.task,
        "examples": splits.counts(),
        "labels": {name: _labels(splits.task, examples) for name, examples in named.items()},
        "duplicates": splits.duplicates,
        "leaked": splits.leaked,
        "contradicting": splits.contradicting,
        "tokens": _lengths(lengths, recipe.tokens.max_length),
        "shown": [_shown(example, tokenizer) for example in from_all_over(splits.train, SHOWN)],
        "provable_drop": _provable_drop(splits, recipe),
        "warnings": list(_warnings(splits, lengths, recipe)),
    }


def _whole_lengths(examples: Sequence[Example], folder: Path, progress: Progress) -> list[int]:
    """The tokens of each text, if nothing of it were cut off."""
    whole = Tokenizer(folder, Tokens(max_length=1 << 30))
    texts = batched((example.texts for example in examples), ROWS)
    tracked = progress.track(texts, -(-len(examples) // ROWS), "tokenizing")
    return [len(window.input_ids) for some in tracked for window in whole.encode(some)]


def _shown(example: Example, tokenizer: Tokenizer) -> dict[str, Any]:
    windows = tokenizer.encode([example.texts])
    return {
        "gold": _with_words(example),
        "tokens": len(windows[0].input_ids),
        "windows": len(windows),
        "truncated": windows[0].truncated,
        "read": tokenizer.decode(windows[0]),
    }


def _with_words(example: Example) -> Any:
    """What is right; of entities, with the words of each."""
    if not isinstance(example.gold, list):
        return example.gold
    return [
        {"text": example.text[one["start"] : one["end"]], **one} if isinstance(one, dict) and "label" in one else one
        for one in example.gold
    ]


def _labels(task: Task, examples: Sequence[Example]) -> dict[str, int]:
    """How often each label stands; for entities, each type."""
    counts: Counter[str] = Counter()
    for example in examples:
        counts.update(task.named(example))
    return dict(sorted(counts.items()))


def _lengths(lengths: Sequence[int], most: int) -> dict[str, Any]:
    p50, p90, p99 = (int(value) for value in np.percentile(lengths, (50, 90, 99)))
    longer = float(np.mean(np.asarray(lengths) > most))
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": max(lengths),
        "max_length": most,
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
    """What is not wrong, but is seldom meant."""
    if splits.leaked:
        yield f"{splits.leaked:,} training rows stand in a held-out split as well; they are left out of training"
    if more := splits.duplicates - splits.leaked:
        yield f"{more:,} training rows stand twice; each is trained on once"
    if splits.contradicting:
        yield splits.left_out
    everything = chain(splits.train, splits.validation, splits.test)
    if empty := sum(not any((part or "").strip() for part in example.texts) for example in everything):
        yield f"{empty:,} texts are empty"
    counts = _labels(splits.task, splits.train)
    yield from _of_spelling(counts, recipe)
    if counts and max(counts.values()) > IMBALANCE * min(counts.values()):
        rarest, commonest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        times = f"{counts[commonest] / counts[rarest]:.0f} times"
        yield f"{commonest!r} stands {times} as often as {rarest!r}: {_advice(recipe)}"
    for name, examples in {"validation": splits.validation, "test": splits.test}.items():
        yield from _of_held_out(name, examples, splits, recipe)
    if recipe.problem_type == "regression":
        yield from _of_numbers(splits)
    longer = float(np.mean(np.asarray(lengths) > recipe.tokens.max_length))
    if longer > 0.05 and recipe.settings([]).tokens.long != "windows":
        yield f"{longer:.0%} of the texts are longer than max_length {recipe.tokens.max_length} and are cut off"


def _of_spelling(labels: Iterable[str], recipe: Recipe) -> Iterator[str]:
    """Of names that are most likely one label, or none."""
    alike: dict[str | float, list[str]] = {}
    for label in labels:
        folded = " ".join(label.split()).casefold()
        alike.setdefault(float(folded) if NUMBER.fullmatch(folded) else folded, []).append(label)
    for names in alike.values():
        if len(names) > 1:
            yield f"{', '.join(map(repr, names))} are {len(names)} labels: spell them alike if they are meant as one"
    for name in MISSING & alike.keys():
        one = recipe.settings([]).problem_type == "single_label_classification"
        advice = f"; data.where: {{{recipe.data.label}: [the others]}} leaves such rows out" if one else ""
        yield f"{alike[name][0]!r} is a label like any other, though it may stand for none{advice}"


def _of_held_out(name: str, examples: Sequence[Example], splits: Splits, recipe: Recipe) -> Iterator[str]:
    """Of what a split cannot show."""
    if more := len(examples) - len({splitting.digest(one.texts) for one in examples}):
        yield f"{more:,} {name} examples have the text of one before them: it counts each time"
    which, what = (1, "context") if recipe.task == "question-answering" else (0, "first text")
    trained = {splitting.digest(one.texts[which:][:1]) for one in splits.train if one.text_pair is not None}
    if count := sum(splitting.digest(one.texts[which:][:1]) in trained for one in examples):
        yield f"{count:,} {name} examples share their {what} with training examples: their scores flatter"
    if unseen := _labels(splits.task, splits.train).keys() - _labels(splits.task, examples).keys():
        labels = ", ".join(map(repr, sorted(unseen)))
        yield f"no {name} example has {labels}: nothing is measured of it there, and a macro average counts it as 0"


def _of_numbers(splits: Splits) -> Iterator[str]:
    """What is told of numbers on a scale of their own."""
    values = np.array([example.gold for example in splits.train], np.float64)
    mean, deviation = values.mean(), values.std()
    if max(abs(mean), deviation) > LARGE:
        yield (
            f"the numbers are {mean:,.4g} on average, with a standard deviation of {deviation:,.4g}; a model "
            "begins near 0 and gets there slowly: subtract the mean and divide by the standard deviation"
        )


def _advice(recipe: Recipe) -> str:
    """What is to be done about a rare label, where the recipe allows it."""
    kind = recipe.settings([]).problem_type or recipe.task
    in_loss = recipe.teacher is None or recipe.distillation.weight < 1
    return RARE[kind] + ("; training.class_weights may help" if kind in WEIGHED and in_loss else "")
