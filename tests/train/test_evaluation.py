"""A split's outputs: each window's own, in the order of the windows, however many are gathered at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from bertline.artifacts.task import Tokens
from bertline.models import pytorch
from bertline.tasks.tokens import Encoded, Tokenizer
from bertline.train import evaluation
from bertline.train.data.mapped import Windows
from bertline.train.progress import Progress
from tests.conftest import make_texts


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("head", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
def test_outputs_are_those_of_each_window_by_itself(model: Path, monkeypatch: pytest.MonkeyPatch, head: type) -> None:
    network = head.from_config(AutoConfig.from_pretrained(model)).eval()  # type: ignore[attr-defined]
    tokenizer = Tokenizer(model, Tokens(max_length=64))
    windows = tokenizer.encode(
        [(row["text"] + " film" * (number % 9), None) for number, row in enumerate(make_texts(20))]
    )
    with torch.no_grad():
        alone = [
            pytorch.outputs(network, {name: torch.from_numpy(array) for name, array in tokenizer.pad([window]).items()})
            for window in windows
        ]
    for together in (1, 2, 64):  # seven rounds
        monkeypatch.setattr(evaluation, "TOGETHER", together)
        found = evaluation.outputs(network, windows, "test", tokenizer, 3, Progress(speaks=False))
        for window, output, expected in zip(windows, found, alone, strict=True):
            assert output.shape == ((len(window.input_ids), 2) if head is AutoModelForTokenClassification else (2,))
            np.testing.assert_allclose(output, expected[0], atol=1e-5)


@pytest.mark.usefixtures("rank")
def test_windows_are_read_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(model))
    tokenizer = Tokenizer(model, Tokens(max_length=64))
    encoded = tokenizer.encode([(row["text"], None) for row in make_texts(20)])
    windows = Windows.write(tmp_path / "windows.arrow", ((window, np.array(0)) for window in encoded))
    read: list[int] = []
    row = Windows._row

    def spied(self: Windows, view: Any, index: int) -> Encoded:
        read.append(index)
        return row(self, view, index)

    monkeypatch.setattr(Windows, "_row", spied)
    evaluation.outputs(network, windows, "test", tokenizer, 3, Progress(speaks=False))
    assert sorted(read) == list(range(20))
