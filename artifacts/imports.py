"""Heavy libraries imported in two thirds of the time, without what they import only in case it is there."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("mlflow", "scipy", "sklearn")
"""What transformers imports for decodings and losses that no encoder has here, and DeepSpeed for its autotuner."""

NO_COMPILER = "TORCHDYNAMO_DISABLE"
"""The variable by which PyTorch's `torch.compile` gives back what it is given."""


@contextmanager
def lean() -> Iterator[None]:
    """Import PyTorch, transformers or DeepSpeed in the block, as where none of UNUSED is installed.

    They can be imported after it. Nothing is hidden from a transformers that was imported before it: that has looked
    what there is, and will import it. The garbage collector rests: it finds nothing in modules, which stay, and would
    walk over all of them again and again.
    """
    hidden = () if "transformers" in sys.modules else UNUSED
    absent = {name: None for name in hidden if name not in sys.modules}
    gc.disable()
    sys.modules.update(absent)  # type: ignore[arg-type]  # None is how Python is told that a module is not there
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        gc.enable()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Functions that modules hand to `torch.compile` on import stay as they are: to load the compiler takes seconds."""
    before = os.environ.get(NO_COMPILER)
    os.environ[NO_COMPILER] = "1"
    try:
        yield
    finally:
        del os.environ[NO_COMPILER]
        if before is not None:
            os.environ[NO_COMPILER] = before
