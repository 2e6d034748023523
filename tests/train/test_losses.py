"""Losses against PyTorch's own modules, and balanced weights against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Training
from bertline.artifacts.task import ProblemType, TaskName, TaskSettings, Tokens
from bertline.tasks.task import IGNORED
from bertline.train.data.micro_batch import MicroBatch
from bertline.train.losses import Loss
from bertline.train.objective import Objective

LABELS = ["a", "b", "c"]


def make(targets: list[Any], task: TaskName, problem: ProblemType | None = None, **training: Any) -> Loss:
    labels = [] if task == "question-answering" else LABELS
    settings = TaskSettings(
        task=task, problem_type=problem, inputs=["text"], labels=labels, tokens=Tokens(max_length=8)
    )
    return Loss(settings, Training.model_validate(training), targets)


def mean(loss: Loss, outputs: torch.Tensor, targets: list[Any]) -> float:
    """The mean loss as a step computes it: the sum divided by the terms."""
    longest = outputs.shape[1] if outputs.ndim == 3 else 0
    mask = torch.ones(len(outputs), longest)
    return float(loss.sum(outputs, loss.stack(targets, longest), mask)) / sum(map(loss.terms, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, {"b": 3.0, "c": 0.5}, "balanced"])
def test_one_label_is_cross_entropy(weights: Any, smoothing: float) -> None:
    torch.manual_seed(0)
    classes, outputs = [0, 0, 0, 1, 2, 2], torch.randn(6, 3)
    targets = [np.array(one) for one in classes]
    loss = make(targets, "text-classification", "single_label_classification", class_weights=weights,
                label_smoothing=smoothing)  # fmt: skip
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=classes)
    theirs = balanced if weights == "balanced" else [1.0, 3.0, 0.5] if weights else [1.0, 1.0, 1.0]
    expected = nn.CrossEntropyLoss(torch.tensor(theirs, dtype=torch.float), label_smoothing=smoothing)(
        outputs, torch.tensor(classes)
    )
    assert mean(loss, outputs, targets) == pytest.approx(float(expected), rel=1e-5)


def test_a_label_that_never_occurs_is_not_taught_by_smoothing() -> None:
    """With a balanced weight, its gradient would be the largest of all."""
    targets = [np.array(one) for one in [0] * 500 + [1] * 500]
    loss = make(targets, "text-classification", "single_label_classification", class_weights="balanced",
                label_smoothing=0.1)  # fmt: skip
    outputs = torch.zeros(1000, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        loss.sum(outputs, torch.tensor([0] * 500 + [1] * 500), torch.ones(1000, 1)), outputs
    )
    assert (gradient[:, 2] >= 0).all()  # its logit is not raised


def test_a_batch_in_which_nothing_counts_teaches_nothing() -> None:
    """Smoothing has a cost even for a label with weight 0, and it would be divided by 0."""
    targets = [np.array(0), np.array(1)]
    loss = make(targets, "text-classification", "single_label_classification", class_weights={"a": 0.0},
                label_smoothing=0.1)  # fmt: skip
    objective, mask = Objective(loss), torch.ones(1, 4)
    micro_batch = MicroBatch({"attention_mask": mask}, loss.stack(targets[:1], 4), None, 1.0)
    normalizers = objective.normalizers(targets[:1], [4])
    assert objective.share(torch.randn(1, 3), micro_batch, normalizers) == 0


def test_several_labels_are_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    outputs, hot = torch.randn(4, 3), (torch.rand(4, 3) < 0.5).float()
    targets = list(hot.numpy())
    loss = make(targets, "text-classification", "multi_label_classification")
    assert mean(loss, outputs, targets) == pytest.approx(float(nn.BCEWithLogitsLoss()(outputs, hot)), rel=1e-5)


def test_a_number_is_squared_error() -> None:
    targets = [np.array(one, np.float32) for one in (1.0, -2.0, 0.5)]
    loss = make(targets, "text-classification", "regression")
    outputs = torch.tensor([[1.5], [0.0], [0.5]])
    assert mean(loss, outputs, targets) == pytest.approx((0.25 + 4) / 3)


def test_tokens_count_alike_whatever_their_windows() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(2, 4, 3)
    targets = [np.array([IGNORED, 0, 2, IGNORED]), np.array([IGNORED, 1])]
    loss = make(targets, "token-classification")
    padded = torch.tensor([[IGNORED, 0, 2, IGNORED], [IGNORED, 1, IGNORED, IGNORED]])
    expected = nn.CrossEntropyLoss()(outputs.flatten(0, 1), padded.flatten())
    assert mean(loss, outputs, targets) == pytest.approx(float(expected), rel=1e-5)
    assert loss.terms(np.array([IGNORED, IGNORED])) == 0


def test_tokens_are_weighted_by_how_rare_their_tags_are() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(2, 4, 3), [np.array([IGNORED, 0, 0, 2]), np.array([IGNORED, 1])]
    padded = torch.tensor([[IGNORED, 0, 0, 2], [IGNORED, 1, IGNORED, IGNORED]])
    loss = make(targets, "token-classification", class_weights="balanced")
    expected = nn.CrossEntropyLoss(torch.tensor([2, 4, 4]) / 3)(outputs.flatten(0, 1), padded.flatten())
    assert mean(loss, outputs, targets) == pytest.approx(float(expected), rel=1e-5)


def test_an_answer_is_the_mean_of_its_start_and_end() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(2, 5, 2)
    targets = [np.array([1, 3]), np.array([0, 0])]
    start, end = (nn.CrossEntropyLoss()(outputs[..., i], torch.tensor([1, 0] if i == 0 else [3, 0])) for i in (0, 1))
    loss = make(targets, "question-answering")
    assert mean(loss, outputs, targets) == pytest.approx(float(start + end) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "target"), [("question-answering", np.array([1, 3])), ("token-classification", np.array([0, 1, 2, 1, 0]))]
)
def test_a_window_costs_as_much_beside_a_longer_one(task: TaskName, target: np.ndarray[Any, Any]) -> None:
    torch.manual_seed(0)
    padded, mask = torch.randn(1, 9, 3), torch.tensor([[1] * 5 + [0] * 4])
    if task == "question-answering":
        padded = padded[..., :2]
    loss = make([target], task)
    alone = loss.sum(padded[:, :5], loss.stack([target], 5), mask[:, :5])
    assert float(loss.sum(padded, loss.stack([target], 9), mask)) == pytest.approx(float(alone), rel=1e-5)


def test_a_weight_of_no_label_is_refused() -> None:
    with pytest.raises(InputError, match=r"training\.class_weights: 'z': no such label; there are a, b, c"):
        make([np.int64(0)], "text-classification", class_weights={"b": 2.0, "z": 3.0})
