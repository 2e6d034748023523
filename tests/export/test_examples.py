"""Warnings about labelled examples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertline.export import sources
from bertline.export.examples import Judge
from bertline.export.options import ExportOptions
from bertline.export.systems import pytorch
from bertline.tasks.task import Output


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


def test_false_alarms_of_a_rare_label_are_no_suspicion(run: Path) -> None:
    """PyTorch finds the three texts that have it, and takes six others for one."""
    origin = replace(sources.read(str(run), None), kind="model")
    rare, usual = origin.settings.labels
    examples = [example._replace(gold=rare if at < 3 else usual) for at, example in enumerate(origin.examples)]
    origin = replace(origin, examples=examples)
    outputs: list[Output] = [np.array([at < 9, at >= 9], np.float32) for at in range(len(examples))]
    judge = Judge.of(origin, ExportOptions(0.5), pytorch(origin), outputs)
    assert judge.baseline < 1 - 3 / len(examples)
    assert judge.suspicion is None
