"""Import heavy libraries in two thirds of the time, without the optional packages that they would import."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("mlflow", "scipy", "sklearn")
"""Packages that transformers imports for decoding and losses not used here, and DeepSpeed for its autotuner."""

NO_COMPILER = "TORCHDYNAMO_DISABLE"
"""Environment variable that turns `torch.compile` into a no-op."""


@contextmanager
def lean() -> Iterator[None]:
    """Import PyTorch, transformers or DeepSpeed in the block as if none of UNUSED were installed.

    UNUSED can be imported afterwards. Nothing is hidden if transformers was imported before: it has already found what
    is installed, and will import it. Garbage collection is off: modules are never freed, and it would scan all of them
    repeatedly.
    """
    hidden = () if "transformers" in sys.modules else UNUSED
    absent = {name: None for name in hidden if name not in sys.modules}
    collecting = gc.isenabled()
    gc.disable()
    sys.modules.update(absent)  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        if collecting:
            gc.enable()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Disable `torch.compile` for functions decorated on import: loading the compiler takes seconds."""
    before = os.environ.get(NO_COMPILER)
    os.environ[NO_COMPILER] = "1"
    try:
        yield
    finally:
        del os.environ[NO_COMPILER]
        if before is not None:
            os.environ[NO_COMPILER] = before
