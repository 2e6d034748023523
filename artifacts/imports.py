"""Heavy libraries imported in two thirds of the time, without what they import only in case it is there."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("mlflow", "scipy", "sklearn")
"""What transformers imports for decodings and losses that no encoder has here, and DeepSpeed for its autotuner."""


@contextmanager
def lean() -> Iterator[None]:
    """Import PyTorch, transformers or DeepSpeed in the block, as where none of UNUSED is installed.

    They can be imported after it. The garbage collector rests: it finds nothing in modules, which stay, and would walk
    over all of them again and again.
    """
    absent = {name: None for name in UNUSED if name not in sys.modules}
    gc.disable()
    sys.modules.update(absent)  # type: ignore[arg-type]  # None is how Python is told that a module is not there
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        gc.enable()
