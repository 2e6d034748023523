"""The ranks of a run: how they join, which device each one uses, and how they exchange values.

Each rank is a process with one GPU or a share of the CPU cores. Nothing here knows about models or data.
"""

import ctypes
import itertools
import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import deepspeed
import deepspeed.comm as dist
import deepspeed.ops
import torch
from deepspeed.accelerator import cuda_accelerator, get_accelerator
from deepspeed.utils import groups
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from bertline.artifacts import machine
from bertline.artifacts.errors import BertlineError, InputError, one_line

DEVICES = Path("/dev")
Made = TypeVar("Made")
WAIT = timedelta(days=7)
"""Effectively no timeout: dead and hanging ranks are left to the watchdog."""
_calls = itertools.count()
"""Numbers the calls of `from_first`, alike on every rank."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""
OMPI = "OMPI_COMM_WORLD_LOCAL_RANK"
"""The variable by which Open MPI's mpirun numbers the processes of a machine; those they start inherit it."""


def check() -> None:
    """Check that torch can use a GPU if this rank needs one.

    Raises:
        InputError: it cannot, for example because the driver is too old; or there are GPUs, and nobody said that this
            rank is not to use them.
    """
    if on_cpu():
        if _are_gpus_expected() and any(DEVICES.glob("nvidia[0-9]*")):
            what = f"this machine has GPUs that torch {torch.__version__} cannot use"
            advice = (
                "`bertline doctor` shows why, DS_ACCELERATOR=cpu (for a hostfile: in .deepspeed_env) trains on the CPU"
            )
            raise InputError(f"{what}; {advice}")
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # its type depends on the cause: torch without CUDA, the driver
        why = f"torch {torch.__version__} cannot use this machine's GPUs: {one_line(error):.300}"
        raise InputError(f"{why}; `bertline doctor` shows what is here, --ranks N trains on the CPU") from error


def _are_gpus_expected() -> bool:
    """Whether neither the environment nor the build of torch says that this rank is to compute on the CPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return "DS_ACCELERATOR" not in os.environ and torch.version.cuda is not None and not hidden


def start() -> None:
    """Join the ranks named by the launcher's environment; a process started by hand becomes the only rank."""
    _quiet()
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(machine.free_port()))
    os.environ.setdefault("LOCAL_RANK", "0")
    if on_cpu():
        _keep_memory()
    else:
        _take_gpu()
    if OMPI in os.environ:  # DeepSpeed ends a rank where they differ
        os.environ[OMPI] = os.environ["LOCAL_RANK"]
    # Else DeepSpeed would compile a shared-memory collective that only inference uses (50 seconds, a C++ compiler).
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(get_accelerator().communication_backend_name())
    torch.set_num_threads(max(1, machine.cores() // _sharing_cores()))


def barrier() -> None:
    """Wait for all ranks."""
    dist.barrier()


def stop() -> None:
    """Wait for all ranks to be done, and leave."""
    barrier()
    dist.destroy_process_group()


def be_patient() -> None:
    """Lift the timeout of collectives, which rank 0 may exceed when it hashes a checkpoint on a slow disk.

    Before this call, ranks that wait for each other fail after ten minutes; afterwards only the watchdog ends them.
    Call it once DeepSpeed's engine exists, whose gradients are reduced in a process group of their own.
    """
    for group in (None, groups._get_data_parallel_group()):
        torch.distributed.distributed_c10d._set_pg_timeout(WAIT, group)


def on_cpu() -> bool:
    """Whether the ranks compute on CPU cores."""
    return str(get_accelerator().device_name()) == "cpu"


def device() -> torch.device:
    """The device that this rank computes on."""
    return torch.device("cpu" if on_cpu() else get_accelerator().device_name(int(os.environ["LOCAL_RANK"])))


def is_first() -> bool:
    """Whether this is rank 0, which alone prints, and alone writes files other than checkpoints."""
    return int(os.environ.get("RANK", "0")) == 0


def computes_bf16() -> bool:
    """Whether every rank's device multiplies bfloat16 matrices natively, since all must compute in one precision."""
    native = machine.computes_bf16() if on_cpu() else torch.cuda.is_bf16_supported(including_emulation=False)
    agreed = torch.tensor(int(native), device=device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)


class Figures:
    """Numbers copied from the device to the host asynchronously; a step later, `read` no longer has to wait."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._copied: Any = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        """The numbers, waiting for the copy if necessary."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._values.tolist()]


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Replace `value` on each rank by its sum over all ranks, which is finite only if every value is."""
    dist.all_reduce(value)
    return value


def from_first(make: Callable[[], Made]) -> Made:
    """Call `make` on rank 0 and return its result on every rank; the others wait, however long it takes.

    Raises:
        BertlineError: on every rank, if `make` raises it.
    """
    # They wait on the store: a gloo group with a long timeout cannot be made beside NCCL's where a host's own name
    # resolves to a loopback address.
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
    """A separate connection to the store through which the ranks joined.

    Args:
        name: prefix of its keys.
        timeout: for every wait on this connection.
    """
    met = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"{name}/{attempt}", met)


def _take_gpu() -> None:
    """Select the GPU numbered LOCAL_RANK, or the only one if a scheduler shows each rank just its own.

    LOCAL_RANK is set to match, since DeepSpeed reads it too.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "0").replace(",", "").isdigit():
        cuda_accelerator.pynvml = None  # through it DeepSpeed measures memory, and it would read GPU names as numbers
    number = int(os.environ["LOCAL_RANK"]) if get_accelerator().device_count() > 1 else 0
    os.environ["LOCAL_RANK"] = str(number)
    get_accelerator().set_device(number)
    # From Hopper on torch prefers cuDNN's attention. It makes a plan for each new shape, of which batches of texts have
    # many, and returns NaN for rows that attend to nothing, such as padding in ModernBERT's local layers.
    torch.backends.cuda.enable_cudnn_sdp(False)


def _sharing_cores() -> int:
    """How many ranks share the cores that this one may use; a scheduler may have bound each rank to its own."""
    mine = f"{socket.gethostname()} {sorted(os.sched_getaffinity(0))}"
    bound, everyone = store("cores", timedelta(minutes=10)), [str(rank) for rank in range(dist.get_world_size())]
    bound.set(everyone[dist.get_rank()], mine)
    return bound.multi_get(everyone).count(mine.encode())


def _keep_memory() -> None:
    """Let glibc's malloc keep the memory that a step frees for the next step, which needs as much.

    By default malloc returns large blocks to the kernel, which zeroes their pages when they are requested again. That
    costs a fifth of a step's time; keeping them takes a fifth more memory. See mallopt(3); other mallocs are unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _quiet() -> None:
    """Silence library warnings that a user cannot act on."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    warnings.filterwarnings("ignore", message=r"barrier\(\)", category=UserWarning)  # raised on a single GPU rank
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
