"""What is imported where imports are to be lean."""

import os
import subprocess
import sys

import pytest
import torch

from bertline.models import imports

LEAN = """
import gc, sys
from bertline.models import imports

with imports.lean():
    import bertline.models.pytorch, bertline.train.setup, optimum.exporters.onnx
from transformers import BertForSequenceClassification
assert gc.isenabled()
found = set(imports.UNUSED) & set(sys.modules)
assert not found, found
import scipy, sklearn
"""


LATE = """
import gc
import transformers
from bertline.models import imports

gc.disable()
with imports.lean():
    from optimum.exporters.onnx import onnx_export_from_model
assert not gc.isenabled()
"""


def test_nothing_is_imported_that_no_encoder_needs() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_what_was_imported_before_finds_what_it_saw() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_torch_compiles_again_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    function = torch.nn.Identity().forward
    for before in (None, "0"):
        monkeypatch.delenv(imports.NO_COMPILER, raising=False)
        if before is not None:
            monkeypatch.setenv(imports.NO_COMPILER, before)
        with imports.uncompiled():
            assert torch.compile(function) is function
        assert os.environ.get(imports.NO_COMPILER) == before
        assert torch.compile(function, backend="eager") is not function
