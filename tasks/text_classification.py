"""Text classification: a text or a pair gets exactly one label, any number of labels, or a number (regression)."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision
from bertline.tasks.correlations import correlations, matthews, moments
from bertline.tasks.task import (
    IGNORED,
    NUMBER,
    Answer,
    Columns,
    Counts,
    Example,
    Output,
    Target,
    Task,
    find_scores,
    score_labels,
    share,
    sort_labels,
    string,
    windows_by_text,
)
from bertline.tasks.thresholds import UNTUNED, best_threshold, best_together
from bertline.tasks.tokens import Encoded, Text, refuse_lone_surrogates

ONE, ZERO = ("1", "1.0", "true"), ("0", "0.0", "false")
"""Spellings of whether a row has a label, where each label has a column."""


class TextClassification(Task):
    """The kinds of classification in `settings.problem_type`. The logits of windows of a long text are averaged."""

    architecture = "ForSequenceClassification"
    gold = "label"

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.settings.problem_type == "multi_label_classification"

    @property
    def thresholds(self) -> dict[str, float]:
        """The probability from which each label is predicted; empty unless multi-label."""
        if not self.multi_label:
            return {}
        return dict(zip(self.labels, self.settings.decision.thresholds or [UNTUNED] * len(self.labels), strict=True))

    @property
    def regression(self) -> bool:
        """Whether the model predicts a number."""
        return self.settings.problem_type == "regression"

    def read_texts(self, row: Mapping[str, Any], columns: Columns, where: str) -> Text:
        """The text or pair of a row. Raises InputError, see `Task.read_texts`."""
        text = string(row, columns.text, where)
        return text, None if columns.text_pair is None else string(row, columns.text_pair, where)

    def read(self, row: Mapping[str, Any], columns: Columns, where: str) -> Example:
        """The example of a row. Raises InputError, see `Task.read`.

        A label may be a string, an integer or a bool; its name is its spelling. Several labels may be a list of these,
        a string of names separated by commas, a 0 or 1 for each of `labels` (by itself if there is only one), or a 0 or
        1 in one column per label (used without being named if there is no label column). A number may be a string.
        """
        if isinstance(columns.label, list):
            return Example(*self.read_texts(row, columns, where), _given(columns.label, row, where))
        if columns.label not in row and self._in_columns(row):
            return Example(*self.read_texts(row, columns, where), _given(self.labels, row, where))
        gold = row.get(columns.label)
        if gold is None or (gold == "" and not self.multi_label):
            advice = f"; a recipe keeps only rows that have one by data.where: {{{columns.label}: [NAME, ...]}}"
            one = not (self.multi_label or self.regression)
            raise InputError(f"{where}: no label in column {columns.label!r}{advice if one else ''}")
        if self._is_yes_or_no(gold):
            return Example(*self.read_texts(row, columns, where), self.labels * _is_one(gold, where))
        if self.multi_label and self._is_vector(gold):
            gold = [name for name, right in zip(self.labels, gold, strict=True) if right]
        reader = _number if self.regression else _names if self.multi_label else _name
        found: Any = reader(gold, where)
        if self.multi_label and self.labels and isinstance(gold, str):
            self._refuse_numbers(found, f"{where}: labels {gold!r:.60}")
        return Example(*self.read_texts(row, columns, where), found)

    def missing(self, names: Iterable[str], named: Mapping[str, str], labelled: bool = False) -> list[str]:
        """Like `Task.missing`, but a label column is not required where each label has its own."""
        names = list(names)
        missing = super().missing(names, named, labelled)
        return [name for name in missing if name != self.gold or not self._in_columns(names)]

    def row(self, example: Example) -> dict[str, Any]:
        """The example as a line of a split file."""
        pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
        return {"text": example.text, **pair, "label": example.gold}

    def find_labels(self, examples: Iterable[Example]) -> list[str]:
        """The labels that occur in examples, sorted; the single output of a regression is called score."""
        if self.regression:
            return ["score"]
        return sort_labels({name for example in examples for name in self._names(example)})

    def check(self, example: Example, where: str) -> Example:
        """The example with labels as in `labels`, for which it may have indices, or names in another case.

        Raises:
            InputError: a label is neither a name nor an index, or is an index while names are numbers too.
        """
        if self.regression:
            return example
        named = [self._known(name, where) for name in self._names(example)]
        return example._replace(gold=sorted({*named}, key=self.labels.index) if self.multi_label else named[0])

    def named(self, example: Example) -> list[str]:
        """Its label or labels."""
        return [] if self.regression else self._names(example)

    def stratum(self, example: Example) -> str | None:
        """The label, where there is exactly one."""
        return example.gold if self.settings.problem_type == "single_label_classification" else None

    def correct_answer(self, example: Example) -> Answer:
        """Its label, its labels, or its number."""
        return {"value" if self.regression else "labels" if self.multi_label else "label": example.gold}

    def wrong_answer(self, example: Example) -> Answer | None:
        """The next label; for multi-label, as many other labels as it has, at least one; None for regression."""
        if self.regression:
            return None
        own = self._names(example)
        after = self.labels.index(own[-1]) + 1 if own else 0
        following = self.labels[after:] + self.labels[:after]
        if self.multi_label:
            return {"labels": [label for label in following if label not in own][: max(len(own), 1)]}
        return {"label": following[0]}

    def target(self, example: Example, window: Encoded) -> Target:
        """The index of the label; for multi-label, 1 or 0 for each label; for regression, the number."""
        if self.regression:
            return np.array(np.nan if example.gold is None else example.gold, np.float32)
        if self.multi_label:
            if example.gold is None:
                return np.full(len(self.labels), np.nan, np.float32)
            return np.asarray(self._hot([example.gold])[0], np.float32)
        return np.array(IGNORED if example.gold is None else self.labels.index(example.gold), np.int64)

    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """For each text, the most probable label; or the labels that reach their thresholds; or the number.

        Keys: label, score, scores; or labels, scores; or value. Scores are the probabilities of all labels.
        """
        return [self._answer(row) for row in self.pooled(len(texts), windows, outputs)]

    def tune(
        self, examples: Sequence[Example], windows: Sequence[Encoded], outputs: Sequence[Output], metric: str
    ) -> Decision:
        """Tune a threshold for each label of a multi-label task, halfway between two probabilities.

        For a mean over labels (macro_f1, weighted_f1, f1, precision, recall), each threshold maximizes the F1 of its
        label. For accuracy (all labels right) and otherwise for micro_f1, they are tuned by `best_together`.
        """
        if not self.multi_label:
            return self.settings.decision
        probable, gold = _sigmoid(np.stack(self.pooled(len(examples), windows, outputs))), self._gold(examples)
        if metric in ("macro_f1", "weighted_f1", "f1", "precision", "recall"):
            thresholds = [best_threshold(probable[:, label], gold[:, label]) for label in range(len(self.labels))]
        else:
            thresholds = best_together(probable, gold, exactly=metric == "accuracy")
        return self.settings.decision.model_copy(update={"thresholds": thresholds})

    def counts(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
        """Exact match, 1, then per label: true positives, gold, predicted; for regression, see `moments`."""
        if self.regression:
            return moments([example.gold for example in examples], [answer["value"] for answer in answers])
        true = self._gold(examples)
        found = self._hot([answer["labels"] if self.multi_label else [answer["label"]] for answer in answers])
        exact = (true == found).all(axis=1, keepdims=True)
        return np.hstack([exact, np.ones_like(exact), true & found, true, found]).astype(np.float64)

    def values(self, counts: Counts) -> dict[str, Counts]:
        """accuracy (all labels right), precision, recall and f1 (of labels[1] if there are two, else macro), macro_f1,
        weighted_f1; micro_f1 for multi-label, else matthews_correlation. Regression: pearson, spearman, mse. A share of
        0 items is 0.
        """
        if self.regression:
            return correlations(counts)
        right, true, found = np.split(counts[..., 2:], 3, axis=-1)
        one = slice(1, 2) if len(self.labels) == 2 and not self.multi_label else slice(None)
        each = find_scores(right, true, found)
        values = {
            "accuracy": share(counts[..., 0], counts[..., 1]),
            **{name: each[name][..., one].mean(axis=-1) for name in ("precision", "recall", "f1")},
            "macro_f1": each["f1"].mean(axis=-1),
            "weighted_f1": share((each["f1"] * true).sum(axis=-1), true.sum(axis=-1)),
        }
        if self.multi_label:
            values["micro_f1"] = share(2 * right.sum(axis=-1), (true + found).sum(axis=-1))
        else:
            values["matthews_correlation"] = matthews(right, true, found)
        return values

    def per_label(self, counts: Counts) -> dict[str, dict[str, float]]:
        """The scores of each label; empty for regression."""
        return {} if self.regression else score_labels(self.labels, *np.split(counts[2:], 3))

    def comparable(self, answer: Answer) -> Any:
        """The label or labels; None for regression, for which `agreement` is a correlation."""
        return answer.get("labels", answer.get("label"))

    def agreement(self, answers: Sequence[Answer], others: Sequence[Answer]) -> float:
        """The share of texts with the same label or labels; for regression, Pearson's correlation of the numbers."""
        if not self.regression:
            return super().agreement(answers, others)
        one, other = ([answer["value"] for answer in each] for each in (answers, others))
        return float(correlations(moments(one, other).sum(axis=0))["pearson"])

    def distortion(self, answers: Sequence[Answer], others: Sequence[Answer]) -> float:
        """As `Task.distortion`: the squared differences of the means and of the standard deviations."""
        if not self.regression:
            return super().distortion(answers, others)
        one, other = (np.array([answer["value"] for answer in each], np.float64) for each in (answers, others))
        varies = float(one.var())
        added = float((other.mean() - one.mean()) ** 2 + (other.std() - one.std()) ** 2)
        return added / varies if varies > 0 else 0.0

    def pooled(self, texts: int, windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Output]:
        """The logits of each text: the mean over its windows."""
        return [np.mean([outputs[i] for i in own], axis=0) for own in windows_by_text(texts, windows)]

    def _answer(self, logits: Output) -> Answer:
        if self.regression:
            return {"value": float(logits[0])}
        if self.multi_label:
            scores = dict(zip(self.labels, _sigmoid(logits).tolist(), strict=True))
            given = [label for label, threshold in self.thresholds.items() if scores[label] >= threshold]
            return {"labels": given, "scores": scores}
        shifted = np.exp(logits - logits.max())
        probable = (shifted / shifted.sum()).tolist()
        best = int(np.argmax(logits))
        scores = dict(zip(self.labels, probable, strict=True))
        return {"label": self.labels[best], "score": probable[best], "scores": scores}

    def _names(self, example: Example) -> list[str]:
        return example.gold if self.multi_label else [example.gold]

    def _is_vector(self, gold: Any) -> bool:
        """Whether it is a 0 or 1 for each of three or more labels, which no list of distinct indices can look like."""
        return isinstance(gold, list) and len(gold) == len(self.labels) > 2 and all(one in (0, 1) for one in gold)

    def _is_yes_or_no(self, gold: Any) -> bool:
        """Whether it says if a text has the only label of a multi-label task: a 0 or 1, true or false."""
        only = self.multi_label and len(self.labels) == 1 and self.labels[0].lower() not in (*ONE, *ZERO)
        return only and str(gold).strip().lower() in (*ONE, *ZERO)

    def _in_columns(self, names: Container[str]) -> bool:
        """Whether the task is multi-label and each label is the name of a column."""
        return self.multi_label and bool(self.labels) and all(label in names for label in self.labels)

    def _refuse_numbers(self, names: Sequence[str], where: str) -> None:
        """Reject numbers in a string unless they are label names: they may be indices, or 0 and 1."""
        if numbers := [name for name in names if name.isdecimal() and name not in self.labels]:
            advice = "spell labels by their names, with commas between: a number may be an index, or a yes or no"
            raise InputError(f"{where}: no label is called {numbers[0]}; {advice}")

    def _known(self, name: str, where: str) -> str:
        """The name of a label given by name, in any case if one alone fits, or by index if no label is a number."""
        if name in self.labels:
            return name
        alike = [label for label in self.labels if label.casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
        known = ", ".join(self.labels)
        if any(NUMBER.fullmatch(label) for label in self.labels):
            advice = "as labels are numbers, an index would be ambiguous: spell it as one, or name them by words"
            raise InputError(f"{where}: unknown label {name!r}; known are {known}; {advice}")
        index = {"False": "0", "True": "1"}.get(name, name) if len(self.labels) == 2 else name
        if index.isdecimal() and int(index) < len(self.labels):
            return self.labels[int(index)]
        raise InputError(f"{where}: unknown label {name!r}; known are {known}, or 0 to {len(self.labels) - 1}")

    def _gold(self, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
        return self._hot([self._names(example) for example in examples])

    def _hot(self, named: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """(texts, labels): whether each text has each label."""
        hot = np.zeros((len(named), len(self.labels)), np.bool_)
        for row, names in enumerate(named):
            hot[row, [self.labels.index(name) for name in names]] = True
        return hot


def _name(gold: Any, where: str) -> str:
    if not isinstance(gold, (str, int)):
        meant = "for a measured number set problem_type: regression"
        if isinstance(gold, list):
            meant = "for several labels set problem_type: multi_label_classification (of a model, in its config.json)"
        elif isinstance(gold, float) and gold.is_integer():  # as pandas writes integers if some are missing
            meant = f"write {gold:.0f} if it names a label"
        advice = f"a name or an integer is expected; {meant}"
        raise InputError(f"{where}: label {gold!r:.60} is a {type(gold).__name__}; {advice}")
    refuse_lone_surrogates(str(gold), f"{where}: the label")
    return str(gold)


def _names(gold: Any, where: str) -> list[str]:
    if isinstance(gold, str):
        if gold.strip().startswith("[") and gold.strip().endswith("]"):
            advice = "separate the names by commas, or use JSON lines, which have lists"
            raise InputError(f"{where}: labels {gold!r:.60}: a list, written as text; {advice}")
        gold = [part.strip() for part in gold.split(",") if part.strip()]
    if not isinstance(gold, list):
        raise InputError(f"{where}: labels {gold!r:.60}: a list of names, or names separated by commas, is expected")
    names = {_name(each, where) for each in gold}
    if len(names) < len(gold) and names <= {"0", "1", "False", "True"}:  # as indices they would mean other labels
        advice = "name its labels, three or more, in data.labels, or give a list of names or indices"
        raise InputError(f"{where}: labels {gold!r:.60}: a vector of 0 and 1; {advice}")
    return sorted(names)


def _given(labels: Sequence[str], row: Mapping[str, Any], where: str) -> list[str]:
    return [label for label in labels if _is_one(row.get(label), f"{where}: column {label!r}")]


def _is_one(value: Any, where: str) -> bool:
    spelled = str(value).strip().lower()
    if spelled not in ONE and spelled not in ZERO:
        raise InputError(f"{where}: found {value!r:.60}; the column of a label holds 1 or 0, true or false")
    return spelled in ONE


def _number(gold: Any, where: str) -> float:
    try:
        number = float("nan" if isinstance(gold, bool) or "_" in str(gold) else gold)  # Python reads 1_0 as 10
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{where}: label {gold!r:.60} is no number, which regression needs")
    return number


def _sigmoid(logits: Output) -> Output:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float64)
