"""A micro-batch: the tensors that a rank computes in one forward and backward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MicroBatch:
    """Windows, padded to the longest of them, and what they are to teach."""

    inputs: dict[str, torch.Tensor]
    """input_ids, attention_mask, token_type_ids: (windows, longest)."""
    targets: torch.Tensor
    """(windows, …), as `Loss.stack` makes them."""
    teacher: torch.Tensor | None
    """The teacher's outputs, as `TeacherLoss.stack` makes them."""
    weight: float
    """1, or 0 for a window computed only because the other ranks wait for this one."""

    def pinned(self) -> "MicroBatch":
        """The same in pinned memory, from which a GPU copies while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on a device; from pinned memory, the copy is asynchronous."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        inputs = {name: moved(tensor) for name, tensor in self.inputs.items()}
        teacher = None if self.teacher is None else moved(self.teacher)
        return MicroBatch(inputs, moved(self.targets), teacher, self.weight)
