"""Heavy libraries imported in two thirds of the time, without what they import only in case it is there."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("mlflow", "scipy", "sklearn")
"""What transformers imports for decodings and losses that no encoder has here, and DeepSpeed for its autotuner."""

DISABLE = "TORCHDYNAMO_DISABLE"


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


@contextmanager
def uncompiled() -> Iterator[None]:
    """Leave functions that a module hands to `torch.compile` on import as they are; the compiler is loaded for seconds.

    See TORCHDYNAMO_DISABLE in PyTorch's documentation of torch.compile.
    """
    before = os.environ.get(DISABLE)
    os.environ[DISABLE] = "1"
    try:
        yield
    finally:
        del os.environ[DISABLE]
        if before is not None:
            os.environ[DISABLE] = before
