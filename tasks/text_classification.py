"""Text classification: a text or a pair gets exactly one label, any number of labels, or a number (regression)."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision
from bertline.tasks.correlations import correlations, matthews, moments
from bertline.tasks.labels import find_label, read_columns, read_label, read_labels, read_number, sort_labels
from bertline.tasks.task import (
    IGNORED,
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
    string,
    windows_by_text,
)
from bertline.tasks.thresholds import UNTUNED, best_threshold, best_together
from bertline.tasks.tokens import Encoded, Text


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
        gold = self._read_gold(row, columns, where)
        return Example(*self.read_texts(row, columns, where), gold)

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
        named = [find_label(name, self.labels, where) for name in self._names(example)]
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

    def _read_gold(self, row: Mapping[str, Any], columns: Columns, where: str) -> Any:
        if isinstance(columns.label, list):
            return read_columns(row, columns.label, where)
        if columns.label not in row and self._in_columns(row):
            return read_columns(row, self.labels, where)
        gold = row.get(columns.label)
        if gold is None or (gold == "" and not self.multi_label):
            advice = f"; a recipe keeps only rows that have one by data.where: {{{columns.label}: [NAME, ...]}}"
            one = not (self.multi_label or self.regression)
            raise InputError(f"{where}: no label in column {columns.label!r}{advice if one else ''}")
        if self.multi_label:
            return read_labels(gold, self.labels, where)
        return read_number(gold, where) if self.regression else read_label(gold, where)

    def _names(self, example: Example) -> list[str]:
        return example.gold if self.multi_label else [example.gold]

    def _in_columns(self, names: Container[str]) -> bool:
        """Whether the task is multi-label and each label is the name of a column."""
        return self.multi_label and bool(self.labels) and all(label in names for label in self.labels)

    def _gold(self, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
        return self._hot([self._names(example) for example in examples])

    def _hot(self, named: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """(texts, labels): whether each text has each label."""
        hot = np.zeros((len(named), len(self.labels)), np.bool_)
        for row, names in enumerate(named):
            hot[row, [self.labels.index(name) for name in names]] = True
        return hot


def _sigmoid(logits: Output) -> Output:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float64)
