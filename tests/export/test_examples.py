"""What labelled examples can show, and warnings about them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertline.export import sources
from bertline.export.examples import Judge, count_answers
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


def test_examples_of_one_unit_are_one_observation(run: Path) -> None:
    """Each text twice, as questions about one context would be, shows no more than each text once."""
    once = sources.read(str(run), None)
    wrong: list[Output] = [
        np.array([(label == example.gold) is (at > 9) for label in once.settings.labels], np.float32)
        for at, example in enumerate(once.examples)
    ]
    right = [-output if at <= 9 else output for at, output in enumerate(wrong)]
    ends = []
    for times in (1, 2):
        origin = replace(once, examples=once.examples * times)
        judge = Judge.of(origin, ExportOptions(0.5), pytorch(origin), right * times)
        windows = origin.task.tokenizer(origin.tokenizer).encode(origin.texts)
        ends.append(judge.score(count_answers(origin, windows, wrong * times), comparison=1).interval[0])
    assert ends[0] == pytest.approx(ends[1], abs=1e-9)
    assert 0 < ends[0] < 10 / len(once.examples)
