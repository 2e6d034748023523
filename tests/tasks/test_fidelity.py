"""What serving computes without torch and transformers is what they compute: ids for any text, and the answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertline.artifacts.task import TaskName, TaskSettings, Tokens
from bertline.models.pytorch import PyTorchRuntime
from bertline.serve.engine import Engine
from bertline.tasks import catalog
from bertline.tasks.tokens import Text, Tokenizer
from bertline.tasks.words import words
from tests import encoders

KINDS = sorted({encoder.tokenizer for encoder in encoders.ENCODERS.values()})
MAX_LENGTH = 24
SPECIAL = st.sampled_from(
    ["👩\u200d👩\u200d👧", "🇩🇪", "\u00e9", "e\u0301", "שלום", "مرحبا", "漢字", "かな", "한국", "\x00", "\x07",
     "\u200b", "\ufeff", "\u202e", "\u00ad", "[CLS]", "</s>", "<mask>", "  ", "\n", "\t", "ﬁ", "İ", "ß", "Berlin",
     "don't", "lazy dog"]
)  # fmt: skip
PIECES = st.one_of(SPECIAL, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.integers(0, 300).map("fox ".__mul__)
PAIRS = st.tuples(TEXTS, st.none() | TEXTS)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    encoders.make_tokenizer(request.param).save_pretrained(folder)
    return folder


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(PAIRS, min_size=1, max_size=6))
def test_tokens_are_those_of_transformers(folder: Path, texts: list[Text]) -> None:
    """100 lists of texts for each of the kinds: a few thousand in all."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(folder, Tokens(max_length=MAX_LENGTH))
    windows = ours.encode(texts)
    for text, window in zip(texts, windows, strict=True):
        # as a batch of one: called with a single pair, transformers drops a second text that is empty
        expected = theirs(
            *([part] for part in text if part is not None), truncation="longest_first", max_length=MAX_LENGTH,
            return_token_type_ids=True, return_offsets_mapping=True,
        )[0]  # fmt: skip
        assert window.input_ids.tolist() == expected.ids
        assert window.type_ids.tolist() == expected.type_ids
        assert window.offsets.tolist() == [list(place) for place in expected.offsets]
        assert window.sequence.tolist() == [-1 if one is None else one for one in expected.sequence_ids]
    padded = theirs.pad({"input_ids": [window.input_ids.tolist() for window in windows]}, padding_side="right")
    batch = ours.pad(windows)
    assert batch["input_ids"].tolist() == padded["input_ids"]
    assert batch["attention_mask"].tolist() == padded["attention_mask"]


def model(folder: Path, architecture: str, labels: Sequence[str]) -> Any:
    """A random BERT with a head, saved and loaded again as anyone would."""
    encoders.make("bert", folder)
    torch.manual_seed(1)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    auto = getattr(transformers, f"AutoModel{architecture}")
    made = auto.from_pretrained(folder, **(named if labels else {}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)  # far enough from 0 that answers differ
    made.save_pretrained(folder)
    return made.eval()


def engine(folder: Path, task: TaskName, labels: Sequence[str]) -> Engine:
    tokens = Tokens(max_length=encoders.POSITIONS, stride=8, long="windows")
    made = catalog.make(TaskSettings(task=task, inputs=["text"], labels=list(labels), tokens=tokens))
    return Engine(made, made.tokenizer(folder), PyTorchRuntime(folder, made.architecture, threads=1))


def test_entities_are_those_of_a_plain_script(tmp_path: Path) -> None:
    labels = ["O", "B-A", "I-A", "B-B", "I-B"]
    plain = model(tmp_path, "ForTokenClassification", labels)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in encoders.TEXTS[:5] if "👩" not in text]
    answers = engine(tmp_path, "token-classification", labels).predict([(text, None) for text in texts])
    assert any(answer["entities"] for answer in answers)
    for text, answer in zip(texts, answers, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        places = inputs.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            probable = plain(**inputs).logits[0].softmax(-1)
        expected: list[dict[str, Any]] = []
        open_label = None
        for start, end in words(text):
            score, index = probable[[place[0] if place[1] else -1 for place in places].index(start)].max(-1)
            prefix, _, label = labels[int(index)].partition("-")
            if prefix == "O":
                open_label = None
            elif prefix == "I" and label == open_label:
                expected[-1]["end"] = end
                expected[-1]["scores"].append(float(score))
            else:
                expected.append({"label": label, "start": start, "end": end, "scores": [float(score)]})
                open_label = label
        found = [(one["label"], one["start"], one["end"]) for one in answer["entities"]]
        assert found == [(one["label"], one["start"], one["end"]) for one in expected]
        scores = [np.mean(one["scores"]) for one in expected]
        np.testing.assert_allclose([one["score"] for one in answer["entities"]], scores, atol=1e-4)


def test_answers_are_those_of_a_plain_script(tmp_path: Path) -> None:
    plain = model(tmp_path, "ForQuestionAnswering", ())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    asked: list[Text] = [("who jumps over the dog?", text) for text in encoders.TEXTS[:4]]
    for (question, context), answer in zip(
        asked, engine(tmp_path, "question-answering", ()).predict(asked), strict=True
    ):
        inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        places = inputs.pop("offset_mapping")[0].tolist()
        of_context = [index for index, one in enumerate(inputs.sequence_ids()) if one == 1]
        with torch.no_grad():
            output = plain(**inputs)
        spans = sorted(
            (
                (float(output.start_logits[0, first] + output.end_logits[0, last]), places[first][0], places[last][1])
                for first in of_context
                for last in of_context
                if first <= last < first + 30
            ),
            reverse=True,
        )[:20]
        assert (answer["start"], answer["end"]) == spans[0][1:]
        score = torch.tensor([logit for logit, _, _ in spans]).softmax(0)[0]
        assert answer["score"] == pytest.approx(float(score), abs=1e-4)


def test_nothing_to_read_is_answered_with_nothing(tmp_path: Path) -> None:
    labels = ["O", "B-A", "I-A"]
    model(tmp_path / "entities", "ForTokenClassification", labels)
    found = engine(tmp_path / "entities", "token-classification", labels).predict([("", None), (" \n\u00a0", None)])
    assert found == [{"entities": []}] * 2
    model(tmp_path / "answers", "ForQuestionAnswering", ())
    answers = engine(tmp_path / "answers", "question-answering", ())
    *nothing, something = answers.predict([("", ""), ("which?", ""), ("which?", " \n"), ("", "a lazy dog")])
    assert [(one["answer"], one["score"], one["start"], one["end"]) for one in nothing] == [("", 1.0, 0, 0)] * 3
    assert something["answer"] in "a lazy dog"
    assert something["answer"]
