"""How many texts a rank's device has memory for: tried at the start, on the longest of all, before hours are spent.

What is tried is a forward and a backward pass beside as much memory as the optimizer will take, and a little more.
DeepSpeed's engine is made afterwards, so that nothing of the trial is left in it, and no rank waits for another that
has run out.
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
from bertline.train.data.batches import Batches, MicroBatch
from bertline.train.deepspeed_config import Precision, accumulation_steps, micro_batch_size
from bertline.train.distillation.relations import Relations
from bertline.train.losses import Normalizers, Objective
from bertline.train.model import AUTOCAST
from bertline.train.watchdog import is_out_of_memory

OPTIMIZER_BYTES = 12
"""Of each parameter that trains: AdamW's two moments, and a copy of it (ZeRO 1 and 2) or of its gradient, in fp32."""
SUMMED_BYTES = 4
"""Of each parameter that trains: its gradient, which waits for that of the next micro-batch, in fp32."""
SPARE = 0.05
"""Of a GPU's memory: lengths change from batch to batch, and leave gaps in what torch has taken."""
BUCKET_BYTES = 2 * 4
"""Of each gradient that is on its way in ZeRO's buffers, in fp32, one for each of two dtypes."""


def fit(
    training: Training,
    zero: DeepSpeedZeroConfig,
    make_model: Callable[[], nn.Module],
    make_batches: Callable[[Training], Batches],
    objective: Objective,
    precision: Precision,
    compare: Callable[[nn.Module], Relations] | None = None,
) -> Training:
    """`training` with the micro-batch halved until the device of every rank has room for it.

    The global batch stays as it is: more micro-batches make up for smaller ones. One text is taken as it is; if even
    that does not fit, the run will say so.

    Args:
        training: of the recipe.
        zero: what DeepSpeed makes of its section `zero_optimization`.
        make_model: that trains.
        make_batches: of it, for a micro-batch of that size.
        objective: of a step.
        precision: that the passes are computed in.
        compare: the model with a teacher that computes beside it; None where none does.
    """
    model = make_model().to(ranks.device()).train()
    relations = None if compare is None else compare(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    spare = 0 if ranks.on_cpu() else int(SPARE * torch.cuda.get_device_properties(ranks.device()).total_memory)
    size = micro_batch_size(training, dist.get_world_size())
    while size > 1:
        tried = training.model_copy(update={"micro_batch_size": size})
        accumulates = accumulation_steps(tried, dist.get_world_size()) > 1
        besides = spare + beside_passes(zero, trained, dist.get_world_size(), accumulates)
        if fits(model, make_batches(tried).heaviest(), objective, precision, besides, relations):
            break
        size = -(-size // 2)
    del model, relations
    _free()
    agreed = torch.tensor(size, device=ranks.device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return training.model_copy(update={"micro_batch_size": int(agreed)})


def beside_passes(zero: DeepSpeedZeroConfig, trained: int, ranks: int, accumulates: bool) -> int:
    """Bytes that the optimizer, and gradients that wait or are on their way, take of each rank's device.

    Args:
        zero: as `fit` takes it.
        trained: parameters that train.
        ranks: among whom ZeRO divides what the optimizer keeps, and from 2 on the gradients.
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
    relations: Relations | None,
) -> bool:
    """Whether a device has memory for a forward and a backward pass.

    Args:
        model: on the device.
        micro_batch: what is computed.
        objective: of it.
        precision: that the passes are computed in.
        besides: bytes that something else will take.
        relations: to a teacher that computes beside the model.
    """
    device = ranks.device()
    try:
        taken = torch.empty(besides, dtype=torch.uint8, device=device)
        batch = micro_batch.to(device)
        with torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            outputs = pytorch.outputs(model, batch.inputs)
        mask = batch.inputs["attention_mask"]
        loss = objective.share(outputs, batch.targets, batch.teacher, mask, Normalizers(1.0, 1.0))
        if relations is not None:
            loss = loss + relations.sum(batch.inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        del taken
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if relations is not None:
            relations.forget()
        _free()
    return True


def _free() -> None:
    """Give memory that nothing uses back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
