"""Which texts calibrate scales and find sensitive layers, if a file is sorted by label."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bertline.export import sources
from bertline.export.candidates import builder, sensitivity
from bertline.export.candidates.builder import PROBES, CandidateBuilder
from bertline.export.candidates.plans import Plan, dynamic
from bertline.export.conversion.graphs import Graph
from bertline.tasks.tokens import Batch, Text
from tests.conftest import WORDS


def words(texts: Sequence[Batch]) -> list[int]:
    """The one word of each, as its token's id."""
    return [int(batch["input_ids"][0, 1]) for batch in texts]


def test_both_labels_of_a_sorted_file_are_seen(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[Batch] = []

    def rank(fp32: Path, texts: Sequence[Batch], plan: Plan) -> list[list[str]]:
        probed.extend(texts)
        return [["/layer"]]

    monkeypatch.setattr(sensitivity, "rank", rank)
    monkeypatch.setattr(builder, "quantize", lambda *arguments: None)
    given: list[Text] = [(WORDS[label][0], None) for label in ("positive", "negative") for _ in range(100)]
    made = CandidateBuilder(sources.read(str(run), None), Graph("fp32", tmp_path / "model.onnx"), None, given, 40)
    assert len(set(words(made.texts[:20]))) == len(set(words(made.texts[20:]))) == 1
    assert len(set(words(made.texts))) == 2
    assert made.used() == []
    made.make(replace(dynamic(True, False), fp32_share=0.25))
    assert (len(probed), len(set(words(probed)))) == (PROBES, 2)


def test_fewer_texts_than_were_asked_for_are_told(run: Path, tmp_path: Path) -> None:
    """Only those of at least the median length are used, cut to it."""
    given: list[Text] = [("good " * words, None) for words in (1, 2, 3, 3, 5)]
    made = CandidateBuilder(sources.read(str(run), None), Graph("fp32", tmp_path / "model.onnx"), None, given, 4)
    assert [batch["input_ids"].shape for batch in made.texts] == [(1, 5)] * 3
    told = "3 texts, not 4: those of at least the median length of 5, cut to it"
    assert made.used() == [f"static quantization was calibrated on {told}"]
