"""Assembles the weights of a DeepSpeed checkpoint from every rank's shards, without running code from its files.

DeepSpeed's files are pickles, and its own converter, zero_to_fp32, lets them run arbitrary code. Here they are loaded
with `weights_only`, and stand-ins replace DeepSpeed's few classes, so DeepSpeed need not be installed either. Each file
is checked against its own checksums, then memory-mapped. Where the weights are:

    ZeRO 0     model states, `module`: all, in the training precision
    ZeRO 1, 2  the same; the optimizer states also hold the trained parameters in fp32: each parameter group is
               flattened into one vector and partitioned into one slice per rank
    ZeRO 3     optimizer states: each trained parameter is partitioned into one slice per rank, and a rank's slices are
               concatenated; model states: slices of frozen parameters, and whole buffers
"""

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertline.artifacts.errors import DamagedError, InputError, one_line
from bertline.export.gathering import checkpoint

Tensors = dict[str, torch.Tensor]


class LeftOut:
    """Stands in for objects that do not concern weights: it keeps their values and does nothing."""


ZERO_STAGES = {"disabled": 0, "optimizer_states": 1, "gradients": 2, "weights": 3}
"""DeepSpeed's ZeroStageEnum."""


def named_stage(enumeration: Any, name: str) -> int:
    """Stands in for `getattr`, with which Python before 3.11.4 pickles enumeration members; allows nothing else."""
    if enumeration is not int or name not in ZERO_STAGES:
        raise pickle.UnpicklingError("GLOBAL getattr was not an allowed global")
    return ZERO_STAGES[name]


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (named_stage, "builtins.getattr"),
    (LeftOut, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (LeftOut, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (LeftOut, "deepspeed.utils.tensor_fragment.fragment_address"),
]
"""Everything that DeepSpeed's own files refer to beyond tensors and plain values, with its stand-ins."""


@dataclass(frozen=True)
class Weights:
    """All tensors of a model by name."""

    tensors: Tensors
    buffers: frozenset[str]
    """The names of the tensors that are not parameters."""
    zero_stage: int
    ranks: int


def read(folder: Path, trust: bool) -> Weights:
    """Read and assemble the weights of a checkpoint.

    Args:
        folder: as `checkpoint.choose` returns it.
        trust: whether its pickles may run code.

    Raises:
        InputError: a file needs more than `weights_only` allows, files are missing, or their layout is unknown.
        DamagedError: a file differs from what was written.
    """
    found = checkpoint.by_rank(folder)
    models = [load(path, trust) for path in found.model]
    optimizers = [load(path, trust) for path in found.optimizer]
    try:
        return _put_together(folder, models, [states["optimizer_state_dict"] for states in optimizers])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder}: not a known layout of DeepSpeed ({error!r:.200})") from error


def load(path: Path, trust: bool) -> Any:
    """Load what `torch.save` wrote, memory-mapped if possible.

    Raises:
        InputError: the file is not trusted, and refers to a class or function without a stand-in.
        DamagedError: the file cannot be read, or a part of it does not match its checksum.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped and (part := zipfile.ZipFile(path).testzip()):
            raise DamagedError(f"{path}: damaged: {part} does not match its checksum")
        with torch.serialization.safe_globals(STAND_INS):
            return torch.load(path, map_location="cpu", mmap=zipped, weights_only=not trust)
    except (DamagedError, PermissionError):
        raise
    except ImportError as error:
        raise InputError(f"{path}: {error}, which it was written with; install that") from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = one_line(error) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError) and not trust:
            asked = re.search(r"GLOBAL (\S+)", reason)
            if asked or zipped:
                raise InputError(
                    f"{path}: needs {asked[1] if asked else 'more than plain values'}, and loading that could run "
                    "code; if you trust whoever wrote the file, add --trust-checkpoint"
                ) from None
        raise DamagedError(f"{path}: cannot be loaded: damaged or truncated ({reason:.120})") from error


def _put_together(folder: Path, models: Sequence[Any], optimizers: Sequence[Any]) -> Weights:
    model = models[0]
    buffers = frozenset(model["buffer_names"] or ())
    if not optimizers:
        if _configured_stage(model) > 0:
            raise InputError(f"{folder}: *_optim_states.pt, which hold its weights in fp32, are missing; copy them too")
        return Weights(dict(model["module"]), buffers, 0, int(model["dp_world_size"]))
    _check_ranks(folder, optimizers)
    stage = int(optimizers[0].get("zero_stage", 1))  # bf16 with fp32 gradients is ZeRO 1, but does not record it
    if stage < 3:
        tensors = {**model["module"], **dict(_flat_groups(model, optimizers))}
    else:
        if len(models) != len(optimizers):
            raise InputError(f"{folder}: {len(models)} files of model states, {len(optimizers)} of optimizer states")
        kept = {name: tensor for name, tensor in model["module"].items() if name in buffers}
        tensors = {**kept, **dict(_frozen(models)), **dict(_sliced(model, optimizers))}
    tensors |= {name: tensors[same] for name, same in (model["shared_params"] or {}).items()}
    return Weights(tensors, buffers, stage, len(optimizers))


def _configured_stage(model: Mapping[str, Any]) -> int:
    return int(((model.get("ds_config") or {}).get("zero_optimization") or {}).get("stage", 0))


def _check_ranks(folder: Path, optimizers: Sequence[Any]) -> None:
    count = optimizers[0]["partition_count"]  # ZeRO 1 and 2 record it per group
    ranks = max(count) if isinstance(count, list) else count
    if ranks != len(optimizers):
        raise InputError(
            f"{folder}: written by {ranks} ranks, but has *_optim_states.pt of {len(optimizers)}: copy them all"
        )


def _flat_groups(model: Any, optimizers: Sequence[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The trained parameters by name, with ZeRO 1 and 2."""
    paddings = optimizers[0].get("param_alignment_paddings")  # after each parameter, with parameter_alignment
    slices = [states["single_partition_of_fp32_groups"] for states in optimizers]
    for index, (shapes, *parts) in enumerate(zip(model["param_shapes"], *slices, strict=True)):
        flat = torch.cat(parts)
        start = 0
        for place, (name, shape) in enumerate(shapes.items()):
            end = start + math.prod(shape)
            yield name, flat[start:end].view(shape)
            start = end + (paddings[index][place] if paddings else 0)
        unit = 2 * len(optimizers)  # a group is padded to a multiple of twice the ranks
        if math.ceil(start / unit) != math.ceil(len(flat) / unit):
            raise ValueError(f"group {index} has {len(flat)} values for parameters of {start}")


def _sliced(model: Any, optimizers: Sequence[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The trained parameters by name, with ZeRO 3."""
    flats = [torch.cat(list(states["fp32_flat_groups"])) for states in optimizers]
    start = 0
    for name, shape in ((name, shape) for shapes in model["param_shapes"] for name, shape in shapes.items()):
        end = start + math.ceil(math.prod(shape) / len(flats))
        yield name, _whole([flat[start:end] for flat in flats], shape)
        start = end
    if any(len(flat) != start for flat in flats):
        raise ValueError(f"ranks have {[len(flat) for flat in flats]} values for slices of {start}")


def _frozen(models: Sequence[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The frozen parameters by name, with ZeRO 3."""
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        yield name, _whole([states["frozen_param_fragments"][name] for states in models], shape)


def _whole(slices: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    """A parameter assembled from its slices, of which the last is padded."""
    return torch.cat(list(slices))[: math.prod(shape)].view(tuple(shape))
