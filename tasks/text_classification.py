"""Text classification: a text or a pair gets one label of several, any number of labels, or a number (regression)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision
from bertline.tasks.task import IGNORED, Answer, Columns, Counts, Example, Output, Target, Task, of_each_text, string
from bertline.tasks.tokens import Encoded, Text, refuse_lone_surrogates

UNTUNED = 0.5
"""The probability from which a label of several is given where no threshold was tuned."""
ONE, ZERO = ("1", "1.0", "true"), ("0", "0.0", "false")
"""How it is spelled that a row has a label or has it not, where each label has a column."""
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
"""A label that is called so: 1 might be its name or an index."""


class TextClassification(Task):
    """What a text is, by `settings.problem_type`. A long text read in windows has the mean of their logits."""

    architecture = "ForSequenceClassification"
    gold = "label"

    @property
    def multi_label(self) -> bool:
        """Any number of labels may be right."""
        return self.settings.problem_type == "multi_label_classification"

    @property
    def thresholds(self) -> dict[str, float]:
        """Where any number of labels may be right, the least probability with which each is given."""
        if not self.multi_label:
            return {}
        return dict(zip(self.labels, self.settings.decision.thresholds or [UNTUNED] * len(self.labels), strict=True))

    @property
    def regression(self) -> bool:
        """A number is right."""
        return self.settings.problem_type == "regression"

    def read_texts(self, row: Mapping[str, Any], columns: Columns, where: str) -> Text:
        """The text or pair of a row. Raises InputError as `Task.read_texts`."""
        text = string(row, columns.text, where)
        return text, None if columns.text_pair is None else string(row, columns.text_pair, where)

    def read(self, row: Mapping[str, Any], columns: Columns, where: str) -> Example:
        """The example of a row. Raises InputError as `Task.read`.

        A label may be a string, a whole number or a truth value, its name being its spelling; several labels are a
        list of those, a string with commas between them, a 0 or 1 for each of `labels`, or 1 in the column of each; a
        number may be spelled.
        """
        if isinstance(columns.label, list):
            hot = [name for name in columns.label if _is_one(row.get(name), f"{where}: column {name!r}")]
            return Example(*self.read_texts(row, columns, where), hot)
        gold = row.get(columns.label)
        if gold is None or (gold == "" and not self.multi_label):
            raise InputError(f"{where}: no label in column {columns.label!r}")
        if self.multi_label and self._is_vector(gold):
            gold = [name for name, right in zip(self.labels, gold, strict=True) if right]
        if self.multi_label and gold in ("0", "1") and self.labels and gold not in self.labels:
            advice = "a row's labels stand in one column, with commas between; a recipe may name a column for each"
            raise InputError(f"{where}: labels {gold!r}: a 0 or 1, of no label that is named; {advice}")
        reader = _number if self.regression else _names if self.multi_label else _name
        return Example(*self.read_texts(row, columns, where), reader(gold, where))

    def row(self, example: Example) -> dict[str, Any]:
        """The example as a line of a split file."""
        pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
        return {"text": example.text, **pair, "label": example.gold}

    def find_labels(self, examples: Iterable[Example]) -> list[str]:
        """The labels that examples have, sorted; the one output of a regression is called score."""
        if self.regression:
            return ["score"]
        return sorted({name for example in examples for name in self._names(example)})

    def check(self, example: Example, where: str) -> Example:
        """The example with its labels as names: an index into `labels` is replaced by the name there.

        Raises:
            InputError: a label is neither a name nor an index, or an index where names are numbers as well.
        """
        if self.regression:
            return example
        named = [self._known(name, where) for name in self._names(example)]
        return example._replace(gold=sorted(named, key=self.labels.index) if self.multi_label else named[0])

    def named(self, example: Example) -> list[str]:
        """Its label or labels."""
        return [] if self.regression else self._names(example)

    def stratum(self, example: Example) -> str | None:
        """The label, where there is exactly one."""
        return example.gold if self.settings.problem_type == "single_label_classification" else None

    def right(self, example: Example) -> Answer:
        """Its label, its labels, or its number."""
        return {"value" if self.regression else "labels" if self.multi_label else "label": example.gold}

    def wrong(self, example: Example) -> Answer | None:
        """The label after its own; of several as many others as it has, or one where it has none. A number is never
        wrong.
        """
        if self.regression:
            return None
        own = self._names(example)
        after = self.labels.index(own[-1]) + 1 if own else 0
        following = self.labels[after:] + self.labels[:after]
        if self.multi_label:
            return {"labels": [label for label in following if label not in own][: max(len(own), 1)]}
        return {"label": following[0]}

    def target(self, example: Example, window: Encoded) -> Target:
        """The index of the label; of several, 1 for each that is right and 0 for the rest; the number."""
        if self.regression:
            return np.array(np.nan if example.gold is None else example.gold, np.float32)
        if self.multi_label:
            if example.gold is None:
                return np.full(len(self.labels), np.nan, np.float32)
            return np.asarray(self._hot([example.gold])[0], np.float32)
        return np.array(IGNORED if example.gold is None else self.labels.index(example.gold), np.int64)

    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """For each text the likeliest label and all probabilities; or the labels over their thresholds; or the number.

        Keys: label, score, scores; or labels, scores; or value.
        """
        return [self._answer(row) for row in self.pooled(len(texts), windows, outputs)]

    def tune(self, examples: Sequence[Example], windows: Sequence[Encoded], outputs: Sequence[Output]) -> Decision:
        """For each of several labels the threshold with the best F1, halfway between two probabilities."""
        if not self.multi_label:
            return self.settings.decision
        probable, gold = _sigmoid(np.stack(self.pooled(len(examples), windows, outputs))), self._gold(examples)
        thresholds = [best_threshold(probable[:, label], gold[:, label]) for label in range(len(self.labels))]
        return self.settings.decision.model_copy(update={"thresholds": thresholds})

    def counts(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
        """Exactly right, 1, then for each label: right, true, found; of a regression, sums that correlations need."""
        if self.regression:
            return _moments([example.gold for example in examples], [answer["value"] for answer in answers])
        true = self._gold(examples)
        found = self._hot([answer["labels"] if self.multi_label else [answer["label"]] for answer in answers])
        exact = (true == found).all(axis=1, keepdims=True)
        return np.hstack([exact, np.ones_like(exact), true & found, true, found]).astype(np.float64)

    def values(self, counts: Counts) -> dict[str, Counts]:
        """accuracy (all labels right), precision, recall and f1 (of labels[1] of two, else macro), macro_f1; micro_f1
        where several labels may be right. Regression: pearson, spearman, mse. 0 of 0 is 0.
        """
        if self.regression:
            return _correlations(counts)
        right, true, found = np.split(counts[..., 2:], 3, axis=-1)
        one = slice(1, 2) if len(self.labels) == 2 and not self.multi_label else slice(None)
        f1 = _share(2 * right, true + found)
        values = {
            "accuracy": _share(counts[..., 0], counts[..., 1]),
            "precision": _share(right, found)[..., one].mean(axis=-1),
            "recall": _share(right, true)[..., one].mean(axis=-1),
            "f1": f1[..., one].mean(axis=-1),
            "macro_f1": f1.mean(axis=-1),
        }
        if self.multi_label:
            values["micro_f1"] = _share(2 * right.sum(axis=-1), (true + found).sum(axis=-1))
        return values

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
        """All values, and per_label those of each label with how many texts have it (support)."""
        scores = super().score(examples, answers)
        if self.regression:
            return scores
        right, true, found = np.split(self.counts(examples, answers).sum(axis=0)[2:], 3)
        figures = zip(
            self.labels, _share(right, found), _share(right, true), _share(2 * right, true + found), true, strict=True
        )
        scores["per_label"] = {
            name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
            for name, precision, recall, f1, support in figures
        }
        return scores

    def essence(self, answer: Answer) -> Any:
        """The label or labels; nothing of a number, which `agreement` correlates."""
        return answer.get("labels", answer.get("label"))

    def agreement(self, answers: Sequence[Answer], others: Sequence[Answer]) -> float:
        """The share of texts with the same label or labels; of a regression, how the numbers correlate (Pearson)."""
        if not self.regression:
            return super().agreement(answers, others)
        one, other = ([answer["value"] for answer in each] for each in (answers, others))
        return float(_correlations(_moments(one, other).sum(axis=0))["pearson"])

    def pooled(self, texts: int, windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Output]:
        """What the model gives for each text: the mean of its windows'."""
        return [np.mean([outputs[i] for i in own], axis=0) for own in of_each_text(texts, windows)]

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
        """Whether it is a 0 or 1 for each label: no list of indices, which names none twice."""
        return isinstance(gold, list) and len(gold) == len(self.labels) > 2 and all(one in (0, 1) for one in gold)

    def _known(self, name: str, where: str) -> str:
        """The name of a label that is named or, where no label is called by a number, counted."""
        if name in self.labels:
            return name
        known = ", ".join(self.labels)
        if any(NUMBER.fullmatch(label) for label in self.labels):
            advice = "as labels are numbers, an index would be ambiguous: spell it as one, or name them by words"
            raise InputError(f"{where}: unknown label {name!r}; known are {known}; {advice}")
        if name.isdecimal() and int(name) < len(self.labels):
            return self.labels[int(name)]
        raise InputError(f"{where}: unknown label {name!r}; known are {known}, or 0 to {len(self.labels) - 1}")

    def _gold(self, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
        return self._hot([self._names(example) for example in examples])

    def _hot(self, named: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """(texts, labels): whether each text has each label."""
        hot = np.zeros((len(named), len(self.labels)), np.bool_)
        for row, names in enumerate(named):
            hot[row, [self.labels.index(name) for name in names]] = True
        return hot


def best_threshold(probable: Output, true: npt.NDArray[np.bool_]) -> float:
    """The threshold from which on a label is best given, by F1; UNTUNED where no text has the label.

    Args:
        probable: (texts,) probabilities of the label.
        true: (texts,) whether it is right.
    """
    if not true.any():
        return UNTUNED
    order = np.argsort(-probable, kind="stable")
    sorted_probable = probable[order]
    right = np.cumsum(true[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + true.sum())
    f1[:-1][sorted_probable[:-1] == sorted_probable[1:]] = -1  # equal probabilities cannot be told apart
    last = int(np.argmax(f1))
    below = sorted_probable[last + 1] if last + 1 < len(order) else 0.0
    return float((sorted_probable[last] + below) / 2)


def _name(gold: Any, where: str) -> str:
    if not isinstance(gold, (str, int)):
        advice = "a name or a whole number would do; of a measured number say problem_type: regression"
        raise InputError(f"{where}: label {gold!r:.60} is a {type(gold).__name__}; {advice}")
    refuse_lone_surrogates(str(gold), f"{where}: the label")
    return str(gold)


def _names(gold: Any, where: str) -> list[str]:
    if isinstance(gold, str):
        if gold.strip().startswith("[") and gold.strip().endswith("]"):
            advice = "names with commas between would do, or JSON lines, which have lists"
            raise InputError(f"{where}: labels {gold!r:.60}: a list, written as text; {advice}")
        gold = [part.strip() for part in gold.split(",") if part.strip()]
    if not isinstance(gold, list):
        raise InputError(f"{where}: labels {gold!r:.60}: a list of names, or names with commas between, would do")
    names = {_name(each, where) for each in gold}
    if len(names) < len(gold) and names <= {"0", "1", "False", "True"}:  # read as indices it would name others
        advice = "name its labels, three or more, in data.labels; a list of names or indices would do, too"
        raise InputError(f"{where}: labels {gold!r:.60}: a vector of 0 and 1; {advice}")
    return sorted(names)


def _is_one(value: Any, where: str) -> bool:
    spelled = str(value).strip().lower()
    if spelled not in ONE and spelled not in ZERO:
        raise InputError(f"{where}: found {value!r:.60}; the column of a label holds 1 or 0, true or false")
    return spelled in ONE


def _number(gold: Any, where: str) -> float:
    try:
        number = float(gold)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{where}: label {gold!r:.60} is no number, which a regression learns")
    return number


def _sigmoid(logits: Output) -> Output:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float64)


def _share(part: Counts, whole: Counts) -> Counts:
    return np.asarray(part / np.maximum(whole, 1))


def _moments(gold: Sequence[float], found: Sequence[float]) -> Counts:
    """Of each text: 1, x, y, xx, yy, xy of the values, the same of their ranks, and the squared error.

    All are taken from a common origin, so that the sums do not lose their digits. Ranks are those in the whole split.
    """
    from scipy.stats import rankdata  # measuring has it, by scikit-learn; serving does without

    x, y = np.asarray(gold, np.float64), np.asarray(found, np.float64)
    columns = [*_powers(x - x.mean(), y - x.mean()), *_powers(*(rankdata(each) - (len(x) + 1) / 2 for each in (x, y)))]
    return np.stack([*columns, (x - y) ** 2], axis=1)


def _powers(x: Counts, y: Counts) -> list[Counts]:
    return [np.ones_like(x), x, y, x * x, y * y, x * y]


def _correlations(sums: Counts) -> dict[str, Counts]:
    return {
        "pearson": _correlation(sums[..., :6]),
        "spearman": _correlation(sums[..., 6:12]),
        "mse": sums[..., 12] / sums[..., 0],
    }


def _correlation(sums: Counts) -> Counts:
    """Pearson's of summed powers; 0 where one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.asarray(np.where(spread > 1e-12, (n * xy - x * y) / np.maximum(spread, 1e-12), 0.0))
