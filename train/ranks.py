"""The ranks of a run: how they find each other, what device each has, what they say together.

One process is one rank, with one GPU or with its share of the CPU's cores. Nothing here knows of models or data.
"""

import ctypes
import itertools
import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import deepspeed
import deepspeed.comm as dist
import deepspeed.ops
import torch
from deepspeed.accelerator import cuda_accelerator, get_accelerator
from deepspeed.utils import groups
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from bertline.artifacts import machine
from bertline.artifacts.errors import BertlineError, InputError

Made = TypeVar("Made")
WAIT = timedelta(days=7)
"""For what takes as long as it takes: a rank that is gone, or stands still, is the watchdog's business."""
_calls = itertools.count()
"""Of `from_first` in this process, as many on every rank."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def check() -> None:
    """See whether torch can use a GPU, where this rank is to have one.

    Raises:
        InputError: it cannot, as with a driver that is too old for it.
    """
    if on_cpu():
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # of any kind: of a torch without CUDA, of the driver
        why = f"torch {torch.__version__} cannot use this machine's GPUs: {' '.join(str(error).split()):.300}"
        raise InputError(f"{why}; `bertline doctor` shows what is here, --ranks N trains on the CPU") from error


def start() -> None:
    """Join the other ranks, whom the launcher's environment names; a process started by hand is a run's only rank."""
    _quiet()
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(machine.free_port()))
    os.environ.setdefault("LOCAL_RANK", "0")
    if on_cpu():
        _keep_memory()
    else:
        _take_gpu()
    # DeepSpeed would compile a shared-memory collective here (50 seconds, a C++ compiler) that only inference calls.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(get_accelerator().communication_backend_name())
    torch.set_num_threads(max(1, machine.cores() // _sharing_cores()))


def meet() -> None:
    """Wait for all ranks."""
    dist.barrier()


def stop() -> None:
    """Leave the other ranks, all of whom are done."""
    meet()
    dist.destroy_process_group()


def be_patient() -> None:
    """Let ranks wait for each other as long as it takes, as when rank 0 hashes a checkpoint on a slow disk.

    Until then those that do not meet end after ten minutes; from now on that is the watchdog's business. DeepSpeed's
    engine, which there is by now, reduces gradients in a group of its own.
    """
    for group in (None, groups._get_data_parallel_group()):
        torch.distributed.distributed_c10d._set_pg_timeout(WAIT, group)


def on_cpu() -> bool:
    """Whether the ranks compute on CPU cores."""
    return str(get_accelerator().device_name()) == "cpu"


def device() -> torch.device:
    """Where this rank computes."""
    return torch.device("cpu" if on_cpu() else get_accelerator().device_name(int(os.environ["LOCAL_RANK"])))


def is_first() -> bool:
    """Whether this is rank 0, which alone speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def computes_bf16() -> bool:
    """Whether every rank's device multiplies bfloat16 matrices natively: all are to compute in the same precision."""
    native = machine.computes_bf16() if on_cpu() else torch.cuda.is_bf16_supported(including_emulation=False)
    agreed = torch.tensor(int(native), device=device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)


class Figures:
    """Numbers on their way from the device to the host: `read` waits for them, and finds them there a step later."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._copied: Any = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._values.tolist()]


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Replace `value` on each rank by its sum over all; a value that is not finite anywhere is so everywhere."""
    dist.all_reduce(value)
    return value


def from_first(make: Callable[[], Made]) -> Made:
    """What `make` returns, on every rank; rank 0 alone calls it, and the others wait however long it takes.

    Raises:
        BertlineError: on every rank, if `make` raises one.
    """
    # They wait by the store: a group of gloo's, which could be as patient, cannot be made beside NCCL's where hosts
    # know themselves by a loopback address.
    done, call = store("first", WAIT), str(next(_calls))
    made: list[Any] = [None, None]
    if is_first():
        try:
            made[0] = make()
        except BertlineError as error:
            made[1] = error
        done.set(call, "")
    done.wait([call])
    torch.distributed.broadcast_object_list(made)
    result, fault = made
    if fault is not None:
        raise fault
    return result  # type: ignore[no-any-return]


def store(name: str, timeout: timedelta) -> Store:
    """A connection of its own to the store by which the ranks have met, with keys of its own.

    Args:
        name: of its keys.
        timeout: of everything that is waited for.
    """
    met = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"{name}/{attempt}", met)


def _take_gpu() -> None:
    """Have the GPU of this rank's number on its machine; where a scheduler shows each rank its own alone, that one.

    DeepSpeed takes it by LOCAL_RANK as well.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "0").replace(",", "").isdigit():
        cuda_accelerator.pynvml = None  # by which DeepSpeed counts memory, and takes each name of a GPU for a number
    number = int(os.environ["LOCAL_RANK"]) if get_accelerator().device_count() > 1 else 0
    os.environ["LOCAL_RANK"] = str(number)
    get_accelerator().set_device(number)
    # From Hopper on torch prefers cuDNN's attention, which makes a plan for each new shape, of which batches of texts
    # have many, and NaN of rows that attend to nothing, as padding does in ModernBERT's local layers.
    torch.backends.cuda.enable_cudnn_sdp(False)


def _sharing_cores() -> int:
    """How many ranks compute on the cores that this one may use: a scheduler may have bound each to its own."""
    mine = f"{socket.gethostname()} {sorted(os.sched_getaffinity(0))}"
    bound, everyone = store("cores", timedelta(minutes=10)), [str(rank) for rank in range(dist.get_world_size())]
    bound.set(everyone[dist.get_rank()], mine)
    return bound.multi_get(everyone).count(mine.encode())


def _keep_memory() -> None:
    """Let glibc's malloc keep what a step frees for the next one, which asks for just as much.

    By default it gives large blocks back to the kernel, which clears each of their pages when they are asked for again:
    a fifth of a step's time, where keeping them takes a fifth more memory. mallopt(3); another malloc is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _quiet() -> None:
    """Leave the terminal to the run: no notes of progress from libraries, no warnings that are theirs to act on."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    warnings.filterwarnings("ignore", message=r"barrier\(\)", category=UserWarning)  # of a rank that is alone on a GPU
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
