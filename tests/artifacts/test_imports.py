"""What is imported where imports are to be lean."""

import subprocess
import sys

import pytest

LEAN = """
import gc, sys
from bertline.artifacts import imports

with imports.lean():
    import {module}
from transformers import BertForSequenceClassification
assert gc.isenabled()
found = set(imports.UNUSED) & set(sys.modules)
assert not found, found
import scipy, sklearn
"""


@pytest.mark.parametrize("module", ["bertline.bench.pytorch", "bertline.train.setup", "optimum.exporters.onnx"])
def test_nothing_is_imported_that_no_encoder_needs(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAN.format(module=module)], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
