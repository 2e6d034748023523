"""Finds a micro-batch size that fits into each rank's memory, tried on the longest texts before training begins.

A trial is one forward and one backward pass, while as much memory is held as the optimizer will take and a little more.
DeepSpeed's engine is made afterwards, so no trial leaves anything in it, and no rank waits for one that has run out of
memory.
"""

from collections.abc import Callable

import deepspeed.comm as dist
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import OffloadDeviceEnum
from torch import nn

from bertline.artifacts.recipe_schema import Training
from bertline.models import pytorch
from bertline.train import ranks
from bertline.train.data.batches import Batches
from bertline.train.data.micro_batch import MicroBatch
from bertline.train.deepspeed_config import Precision, accumulation_steps, micro_batch_size
from bertline.train.model import autocast
from bertline.train.objective import Normalizers, Objective
from bertline.train.watchdog import is_out_of_memory

OPTIMIZER_BYTES = 12
"""Per trained parameter, in fp32: AdamW's two moments, and a copy of it (ZeRO 1 and 2) or of its gradient."""
SUMMED_BYTES = 4
"""Per trained parameter: its accumulated gradient, in fp32."""
SPARE = 0.05
"""Share of a GPU's memory kept free: changing lengths fragment the memory that torch has reserved."""
BUCKET_BYTES = 2 * 4
"""Per element of ZeRO's reduce buckets: fp32, in a buffer for each of two dtypes."""


def fit(
    training: Training,
    zero: DeepSpeedZeroConfig,
    make_model: Callable[[], nn.Module],
    make_batches: Callable[[Training], Batches],
    make_objective: Callable[[nn.Module], Objective],
    precision: Precision,
) -> Training:
    """`training` with the micro-batch size halved until it fits on the device of every rank.

    The global batch is unchanged: smaller micro-batches mean more gradient accumulation. A size of 1 is not tried; if
    even that does not fit, the run itself will report it.

    Args:
        training: the recipe's section.
        zero: DeepSpeed's reading of its section `zero_optimization`.
        make_model: makes the model to train.
        make_batches: makes the batches for settings with the micro-batch size to try.
        make_objective: makes the loss to compute, for a model.
        precision: the precision of both passes.
    """
    model = make_model().to(ranks.device()).train()
    objective = make_objective(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    spare = 0 if ranks.on_cpu() else int(SPARE * torch.cuda.get_device_properties(ranks.device()).total_memory)
    size = micro_batch_size(training, dist.get_world_size())
    while size > 1:
        tried = training.model_copy(update={"micro_batch_size": size})
        accumulates = accumulation_steps(tried, dist.get_world_size()) > 1
        besides = spare + beside_passes(zero, trained, dist.get_world_size(), accumulates)
        if fits(model, make_batches(tried).heaviest(), objective, precision, besides):
            break
        size = -(-size // 2)
    del model, objective
    _free()
    agreed = torch.tensor(size, device=ranks.device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return training.model_copy(update={"micro_batch_size": int(agreed)})


def beside_passes(zero: DeepSpeedZeroConfig, trained: int, ranks: int, accumulates: bool) -> int:
    """Bytes on each rank's device for the optimizer and for gradients that are accumulated or being reduced.

    Args:
        zero: as in `fit`.
        trained: the number of parameters to train.
        ranks: how many ranks share the optimizer's state under ZeRO, and from stage 2 on the gradients.
        accumulates: whether a step has several micro-batches.
    """
    divided, whole = OPTIMIZER_BYTES * trained, SUMMED_BYTES * trained if accumulates else 0
    if zero.stage > 1:
        divided, whole = divided + whole, 0
    if zero.offload_optimizer is not None and zero.offload_optimizer.device != OffloadDeviceEnum.none:
        divided = 0
    if zero.stage > 0:
        divided = divided // ranks + BUCKET_BYTES * zero.reduce_bucket_size
    return divided + whole


def fits(
    model: nn.Module,
    micro_batch: MicroBatch,
    objective: Objective,
    precision: Precision,
    besides: int,
) -> bool:
    """Whether the device has enough memory for a forward and a backward pass.

    Args:
        model: on the device.
        micro_batch: the texts to compute.
        objective: the loss to compute.
        precision: the precision of both passes.
        besides: bytes to hold meanwhile.
    """
    device = ranks.device()
    try:
        held = torch.empty(besides, dtype=torch.uint8, device=device)
        batch = micro_batch.to(device)
        with autocast(precision):
            outputs = pytorch.outputs(model, batch.inputs)
        loss = objective.share(outputs, batch, Normalizers(1.0, 1.0, 1.0))
        loss.backward()  # type: ignore[no-untyped-call]
        del held
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if objective.relations is not None:
            objective.relations.forget()
        _free()
    return True


def _free() -> None:
    """Return torch's unused GPU memory to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
