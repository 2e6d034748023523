"""Extractive question answering: the span of a context that answers a question, or that there is none.

Scores are SQuAD's (arXiv 1606.05250, and 1806.03822 for questions without an answer): texts are compared in lower case,
without punctuation and articles.
"""

import re
import string as characters
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import Decision
from bertline.tasks.task import (
    IGNORED,
    Answer,
    Columns,
    Counts,
    Example,
    Output,
    Target,
    Task,
    share,
    string,
    windows_by_text,
)
from bertline.tasks.thresholds import best_no_answer_threshold
from bertline.tasks.tokens import Encoded, Text, Tokenizer

BEST = 20
"""Number of best spans that probabilities are normalized over."""
TOLD = 5
"""Number of spans in an answer."""


class Span(NamedTuple):
    """A span of a context in characters, and the sum of the logits of its first and last token."""

    start: int
    end: int
    logit: float


class QuestionAnswering(Task):
    """Answers are spans of the context. Logits are compared across all windows of a context; a span that appears in
    several windows gets its highest logit.
    """

    architecture = "ForQuestionAnswering"
    gold = "answers"

    def read_texts(self, row: Mapping[str, Any], columns: Columns, where: str) -> Text:
        """The question and context of a row. Raises InputError, see `Task.read_texts`."""
        return string(row, columns.question, where), string(row, columns.context, where)

    def read(self, row: Mapping[str, Any], columns: Columns, where: str) -> Example:
        """The example of a row. Raises InputError, see `Task.read`.

        Answers are {"text": […], "answer_start": […]}, as on the hub, or a list of objects with text and answer_start
        (as in SQuAD's own files) or start; an empty list, or `is_impossible`, means that the context has no answer.
        """
        question, context = string(row, columns.question, where), string(row, columns.context, where)
        if row.get("is_impossible") is True:
            return Example(question, context, [])
        answers = [
            _check_answer(text, start, context, where) for text, start in _read_answers(row.get(columns.answers), where)
        ]
        return Example(question, context, answers)

    def lacks(self, names: Container[str], labelled: bool = False) -> list[str]:
        """Like `Task.lacks`, but answers are not required where there is a column is_impossible."""
        return super().lacks(names, labelled and "is_impossible" not in names)

    def row(self, example: Example) -> dict[str, Any]:
        """The example as a line of a split file."""
        return {"question": example.text, "context": example.text_pair, "answers": example.gold}

    def find_labels(self, examples: Iterable[Example]) -> list[str]:
        """No labels: the outputs are start and end."""
        return []

    def named(self, example: Example) -> list[str]:
        """Whether the context has an answer."""
        return [self.stratum(example)]

    def stratum(self, example: Example) -> str:
        """Whether the context has an answer."""
        return "answerable" if example.gold else "unanswerable"

    def unit(self, example: Example) -> Sequence[str | None]:
        """The context: a model trained on one question about it has seen the text of all others."""
        return (example.text_pair,)

    def correct_answer(self, example: Example) -> Answer:
        """The first correct answer; empty if the context has none."""
        return {"answer": example.gold[0]["text"] if example.gold else ""}

    def wrong_answer(self, example: Example) -> Answer:
        """An empty answer where the context has one, a word where it has none."""
        return {"answer": "" if example.gold else "something"}

    def tokenizer(self, folder: Path, kept: Mapping[str, bytes] | None = None) -> Tokenizer:
        """A tokenizer that splits the context into windows, each preceded by the question."""
        return Tokenizer(folder, self.settings.tokens, paired=True, kept=kept)

    def target(self, example: Example, window: Encoded) -> Target:
        """(2,) first and last token of the first answer; 0, 0 (the classification token) if it is not in the window."""
        if example.gold is None:
            return np.full(2, IGNORED, np.int64)
        if not example.gold:
            return np.zeros(2, np.int64)
        start = example.gold[0]["start"]
        end = start + len(example.gold[0]["text"])
        begins, ends = window.offsets.T
        inside = np.flatnonzero(_of_context(window) & (begins < end) & (ends > start))
        if len(inside) == 0 or not _shows(window, example.text_pair or "", start, end):
            return np.zeros(2, np.int64)
        return inside[[0, -1]]

    def decode(self, texts: Sequence[Text], windows: Sequence[Encoded], outputs: Sequence[Output]) -> list[Answer]:
        """The best span of the context for each question, or no answer.

        Keys: answer ("" for no answer), score (probability among the best spans), start, end (characters of the
        context), n_best (the best five); and, if the model may give no answer, no_answer_score (None: no span exists).
        """
        own = windows_by_text(len(texts), windows)
        return [
            self._answer(context or "", [(windows[index], outputs[index]) for index in indices])
            for (_, context), indices in zip(texts, own, strict=True)
        ]

    def tune(
        self, examples: Sequence[Example], windows: Sequence[Encoded], outputs: Sequence[Output], metric: str
    ) -> Decision:
        """Let answers be as long as 99 % of the correct ones need, and tune the "no answer" threshold.

        The threshold is tuned for exact match, or else F1, if some questions have no answer.
        """
        decision = self.settings.decision
        longest = max(decision.max_answer_length, self._usual_length(examples, windows))
        decision = decision.model_copy(update={"max_answer_length": longest})
        if all(example.gold for example in examples):
            return decision
        always = decision.model_copy(update={"no_answer_threshold": np.inf})
        answers = self.with_decision(always).decode([example.texts for example in examples], windows, outputs)
        given = self.counts(examples, answers)[:, 0 if metric == "exact_match" else 1]  # the score of answering
        silent = np.array([float(not example.gold) for example in examples])  # the score of not answering
        found = [answer["no_answer_score"] for answer in answers]
        scores = np.array([np.inf if score is None else score for score in found])
        return decision.model_copy(update={"no_answer_threshold": best_no_answer_threshold(scores, given, silent)})

    def counts(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Counts:
        """Per question: exact match, F1, 1; these again if it has an answer, else 0; exact match, 1 if not, else 0."""
        rows = []
        for example, answer in zip(examples, answers, strict=True):
            golds = [gold["text"] for gold in example.gold if normalize(gold["text"])] or [""]
            one = [
                max(float(exact(answer["answer"], gold)) for gold in golds),
                max(f1(answer["answer"], gold) for gold in golds),
                1.0,
            ]
            rows.append([*one, *(one if example.gold else (0.0, 0.0, 0.0)), *((0.0, 0.0) if example.gold else one[1:])])
        return np.array(rows)

    def values(self, counts: Counts) -> dict[str, Counts]:
        """f1 and exact_match of all questions and of those with an answer; no_answer_accuracy of the rest; 0 to 1."""
        matched, overlap, all_of, has_matched, has_overlap, has, none_right, none = np.moveaxis(counts, -1, 0)
        return {
            "f1": share(overlap, all_of),
            "exact_match": share(matched, all_of),
            "has_answer_f1": share(has_overlap, has),
            "has_answer_exact_match": share(has_matched, has),
            "no_answer_accuracy": share(none_right, none),
        }

    def comparable(self, answer: Answer) -> Any:
        """The text of the answer."""
        return answer["answer"]

    def _usual_length(self, examples: Sequence[Example], windows: Sequence[Encoded]) -> int:
        """The tokens that 99 % of the correct answers need at most; 0 if no window shows one.

        Not the most that one needs: the spans to compare in each window grow with it.
        """
        targets = ((window.text, *self.target(examples[window.text], window)) for window in windows)
        lengths = {text: int(last - first) + 1 for text, first, last in targets if last > 0}
        return int(np.quantile(list(lengths.values()) or [0], 0.99, method="inverted_cdf"))

    def _answer(self, context: str, seen: Sequence[tuple[Encoded, Output]]) -> Answer:
        threshold = self.settings.decision.no_answer_threshold
        spans = self._spans(context, seen)
        null = min(float(output[0].sum()) for _, output in seen)
        logits = [span.logit for span in spans] + ([null] if threshold is not None or not spans else [])
        probable = np.exp(np.array(logits) - max(logits))
        probable /= probable.sum()
        told = [
            {"answer": context[span.start : span.end], "score": float(score), "start": span.start, "end": span.end}
            for span, score in zip(spans, probable, strict=False)
        ]
        none = {"answer": "", "score": float(probable[-1]), "start": 0, "end": 0}
        difference = null - spans[0].logit if spans else float("inf")
        best = none if not spans or (threshold is not None and difference > threshold) else told[0]
        score = {} if threshold is None else {"no_answer_score": difference if spans else None}
        return {**best, "n_best": told[:TOLD], **score}

    def _spans(self, context: str, seen: Sequence[tuple[Encoded, Output]]) -> list[Span]:
        """The distinct best spans of all windows, the best first."""
        found: dict[tuple[int, int], float] = {}
        for window, output in seen:
            for first, last, logit in self._pairs(window, output):
                start, end = _trim_blanks(context, int(window.offsets[first, 0]), int(window.offsets[last, 1]))
                if start < end and logit > found.get((start, end), -np.inf):
                    found[start, end] = logit
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return [Span(start, end, logit) for (start, end), logit in ranked[:BEST]]

    def _pairs(self, window: Encoded, output: Output) -> list[tuple[int, int, float]]:
        """The best pairs of first and last token in a window, with summed logits."""
        places = np.flatnonzero(_of_context(window))
        count, longest = len(places), self.settings.decision.max_answer_length
        if count == 0:
            return []
        starts, ends = output[places, 0].astype(np.float64), output[places, 1].astype(np.float64)
        # (start, n): the logits of every allowed span, which ends n tokens after its first
        width = min(longest, count)
        padded = np.concatenate([ends, np.full(width - 1, -np.inf)])
        logits = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)
        best = np.argsort(-logits, axis=None, kind="stable")[:BEST]
        pairs = [(*divmod(int(index), width), float(logits.flat[index])) for index in best]
        return [(int(places[s]), int(places[s + n]), logit) for s, n, logit in pairs if logit > -np.inf]


def normalize(text: str) -> str:
    """Normalize a text as SQuAD's script does: lower case, no punctuation, no articles, single spaces."""
    plain = "".join(one for one in text.lower() if one not in characters.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact(answer: str, gold: str) -> bool:
    """Whether an answer equals a gold answer after normalization."""
    return normalize(answer) == normalize(gold)


def f1(answer: str, gold: str) -> float:
    """Word-level F1 of an answer and a gold answer; if one has no words, 1 if both have none, else 0."""
    words, wanted = normalize(answer).split(), normalize(gold).split()
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))


def _of_context(window: Encoded) -> npt.NDArray[np.bool_]:
    return np.asarray((window.sequence == 1) & (window.offsets[:, 1] > window.offsets[:, 0]))


def _shows(window: Encoded, context: str, start: int, end: int) -> bool:
    """Whether a window contains a whole span, and not only a part of it."""
    seen = window.offsets[_of_context(window)]
    shown_from, shown_to = int(seen[:, 0].min()), int(seen[:, 1].max())
    before, after = context[start:shown_from], context[shown_to:end]
    # offsets skip blanks and characters that the tokenizer deletes, so only missing non-blank text counts
    return not before.strip() and not after.strip()


def _trim_blanks(context: str, start: int, end: int) -> tuple[int, int]:
    """The span without blanks at its ends: some tokenizers attach the preceding blank to a word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))


def _read_answers(answers: Any, where: str) -> list[tuple[Any, Any]]:
    """Read (text, start) of each answer from any of the known layouts."""
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        if isinstance(starts, list) and len(starts) == len(answers["text"]):
            return list(zip(answers["text"], starts, strict=True))
    if isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        return [(one.get("text"), one.get("answer_start", one.get("start"))) for one in answers]
    found = "nothing" if answers is None else f"{answers!r:.60}"
    raise InputError(
        f"{where}: answers are {found}; a list of objects with text and answer_start is expected, or one object with a "
        "list of each; an empty one says that the context does not answer"
    )


def _check_answer(text: Any, start: Any, context: str, where: str) -> dict[str, Any]:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: answer {text!r:.60} is no text; leave out an answer that is none")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise InputError(
            f"{where}: answer {text!r:.60} starts at {start!r:.60}; a character of the context is expected"
        )
    found = context[start : start + len(text)]
    if found != text:
        at = context.find(text)
        hint = f"it occurs at {at}" if at >= 0 else "it does not occur in the context"
        raise InputError(
            f"{where}: answer {text!r:.60} starts at {start}, but the context has {found!r:.60} there; {hint}"
        )
    return {"text": text, "start": start}
