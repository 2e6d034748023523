"""What is imported where imports are to be lean."""

import subprocess
import sys

LEAN = """
import gc, sys
from bertline.artifacts import imports

with imports.lean():
    import bertline.bench.pytorch, bertline.train.setup, optimum.exporters.onnx
from transformers import BertForSequenceClassification
assert gc.isenabled()
found = set(imports.UNUSED) & set(sys.modules)
assert not found, found
import scipy, sklearn
"""


def test_nothing_is_imported_that_no_encoder_needs() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
