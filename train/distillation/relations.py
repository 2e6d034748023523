"""The loss of self-attention relations between tokens, as in MiniLMv2.

The queries of the last layer, concatenated over its heads, are split again into as many heads as the teacher has; a
head's relations are the softmax of the scaled dot products of all pairs of tokens; likewise for keys and for values.
The loss is the mean KL divergence of the student's relations from the teacher's (arXiv:2012.15828, section 3). Both
sides have the same number of heads whatever their widths, so a student may be narrower.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from bertline.artifacts.errors import InputError
from bertline.models import pytorch
from bertline.train import model as models
from bertline.train.deepspeed_config import Precision
from bertline.train.losses import NEVER, divergence

PROJECTIONS = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
)
"""The modules that compute a layer's queries, keys and values, by family."""


class Relations:
    """Compares the last layers of two models, running the teacher at each step, since relations are too large to cache.

    Its hooks stay in the student for the life of the run.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float, precision: Precision) -> None:
        """Register hooks in both models.

        Args:
            student: the module that DeepSpeed's engine holds.
            teacher: a model on the same device.
            weight: the weight of this loss relative to the others.
            precision: the precision that the teacher computes in.

        Raises:
            InputError: a model's family is not supported, or its width is not divisible by the teacher's heads.
        """
        self.teacher, self.weight = teacher.eval().requires_grad_(False), weight
        self._precision: Precision = precision
        self.heads = int(cast(Any, teacher.config).num_attention_heads)
        self._of_student, self._of_teacher = _Watched(student), _Watched(teacher)
        for watched in (self._of_student, self._of_teacher):
            if watched.width % self.heads:
                raise InputError(
                    f"distillation.relations: {watched.width} features cannot be split into the teacher's "
                    f"{self.heads} heads; leave it out"
                )

    def sum(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of the batch that the student has just computed, summed over its tokens.

        A token's loss is the mean over heads and over queries, keys and values.
        Args:
            inputs: the model inputs of that batch.
        """
        with torch.no_grad(), models.autocast(self._precision):
            pytorch.outputs(self.teacher, inputs)
        mask = inputs["attention_mask"]
        costs = [
            self._cost(own, theirs, mask)
            for own, theirs in zip(self._of_student.take(), self._of_teacher.take(), strict=True)
        ]
        return self.weight * torch.stack(costs).mean()

    def forget(self) -> None:
        """Drop what was recorded of a batch that was not completed."""
        for watched in (self._of_student, self._of_teacher):
            watched.take()

    def _cost(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        costs = divergence(self._related(student, mask), self._related(teacher, mask), -1)  # (windows, heads, tokens)
        return (costs.mean(1) * mask).sum()

    def _related(self, projected: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(windows, heads, tokens, tokens) logits of the relations; padding is masked out."""
        windows, tokens, width = projected.shape
        split = projected.float().reshape(windows, tokens, self.heads, width // self.heads).transpose(1, 2)
        products = split @ split.transpose(-1, -2) / (width // self.heads) ** 0.5
        related: torch.Tensor = products.masked_fill(mask[:, None, None, :] == 0, NEVER)
        return related


class _Watched:
    """Records the queries, keys and values that a model's last layer computes for a batch."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[int, torch.Tensor] = {}
        modules = dict(models.layers(model)[-1].named_modules()) if len(models.layers(model)) else {}
        found: Sequence[nn.Module] = next(
            ([modules[name] for name in names] for names in PROJECTIONS if names[0] in modules), ()
        )
        if not found:
            kind = cast(Any, model.config).model_type
            raise InputError(f"distillation.relations: models of type {kind} are not supported; leave it out")
        self.width = int(cast(nn.Linear, found[0]).out_features)
        for number, module in enumerate(found):
            module.register_forward_hook(self._recorder(number))

    def take(self) -> list[torch.Tensor]:
        """Return the recorded tensors of the last batch, and forget them."""
        seen, self._seen = self._seen, {}
        return [seen[number] for number in sorted(seen)]

    def _recorder(self, number: int) -> Any:
        def record(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._seen[number] = output

        return record
