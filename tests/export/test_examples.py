"""Warnings about labelled examples, and what scores on them show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertline.export import choose, sources
from bertline.export.examples import Judge
from bertline.export.options import ExportOptions
from bertline.export.systems import pytorch
from bertline.tasks.task import Example, Output
from tests.conftest import classifier


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_labels_that_may_be_in_another_order_are_told(run: Path, share: float) -> None:
    """Half of the examples have either label, and PyTorch gives this share of them their own."""
    origin = replace(sources.read(str(run), None), kind="model")
    labels = origin.settings.labels
    outputs: list[Output] = []
    for number, example in enumerate(origin.examples):
        right = number < share * len(origin.examples)
        outputs.append(np.array([(label == example.gold) is right for label in labels], np.float32))
    suspicion = Judge.of(origin, ExportOptions(0.5), pytorch(origin), outputs).suspicion
    if share > 0.5:
        assert suspicion is None
    else:
        assert suspicion is not None
        assert suspicion.startswith(
            "PyTorch agrees with 30.0% of the labels; 'negative' for every text would agree with "
        )
        assert suspicion.endswith("(0 is negative, 1 is positive)")


def test_numbers_that_are_shifted_or_scaled_do_not_pass(run: Path) -> None:
    """They correlate as before, so no correlation shows it."""
    settings = classifier(labels=["score"]).model_copy(update={"problem_type": "regression"})
    chance = np.random.default_rng(3)
    gold = chance.normal(size=300)
    said = (gold + chance.normal(scale=0.3, size=300)).astype(np.float32)
    examples = [Example("a", None, one) for one in gold.tolist()]
    origin = replace(sources.read(str(run), None), settings=settings, metric="pearson", examples=examples)
    outputs: list[Output] = list(said[:, None])
    judge = Judge.of(origin, ExportOptions(0.01), pytorch(origin), outputs)
    for found, fault in {"as it was": said, "shifted": said - 0.2, "scaled": 0.6 * said}.items():
        answers = [{"value": float(one)} for one in fault]
        doubt = choose.doubt(judge.score(origin.task.counts(examples, answers), comparison=1), 0.01)
        assert (doubt is None) == (found == "as it was")
        assert doubt is None or doubt.endswith("lower, more than 0.02: its numbers are shifted or scaled")
