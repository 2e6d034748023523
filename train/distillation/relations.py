"""What a student learns of how its teacher's tokens relate: self-attention relations, as MiniLMv2 has them.

The queries of the last layer, of all its heads together, are split anew into as many heads as the teacher has; each
head's relations are the softmax of the scaled products of all pairs of tokens; and the same of keys and of values. The
loss is the mean divergence of the student's relations from the teacher's (arXiv:2012.15828, section 3). The number of
heads is the same on both sides whatever the widths, so that a student may be narrower.
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
from bertline.train.model import AUTOCAST

PROJECTIONS = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
)
"""What makes queries, keys and values of a layer, by family."""


class Relations:
    """Compares the last layers of two models; the teacher computes beside the student, since this is too much to keep.

    Its hooks stay in the student for the life of the run.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float, precision: Precision = "fp32") -> None:
        """Watch both.

        Args:
            student: as DeepSpeed's engine holds it.
            teacher: on the same device.
            weight: of this loss, beside the others.
            precision: that the teacher computes in.

        Raises:
            InputError: the family of one of them is not known, or their widths do not split into the teacher's heads.
        """
        self.teacher, self.weight = teacher.eval().requires_grad_(False), weight
        self._dtype = AUTOCAST.get(precision)
        self.heads = int(cast(Any, teacher.config).num_attention_heads)
        self._of_student, self._of_teacher = _Watched(student), _Watched(teacher)
        for watched in (self._of_student, self._of_teacher):
            if watched.width % self.heads:
                raise InputError(
                    f"distillation.relations: {watched.width} features do not split into the teacher's {self.heads} "
                    "heads; leave it out"
                )

    def sum(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The summed loss of the batch that the student has just computed: of each token the mean over its relations.

        Args:
            inputs: of that batch.
        """
        device = inputs["input_ids"].device.type
        with torch.no_grad(), torch.autocast(device, self._dtype, enabled=self._dtype is not None):
            pytorch.outputs(self.teacher, inputs)
        mask = inputs["attention_mask"]
        costs = [
            self._cost(own, theirs, mask)
            for own, theirs in zip(self._of_student.take(), self._of_teacher.take(), strict=True)
        ]
        return self.weight * torch.stack(costs).mean()

    def forget(self) -> None:
        """Let go of a batch that was not computed to its end."""
        for watched in (self._of_student, self._of_teacher):
            watched.take()

    def _cost(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        costs = divergence(self._related(student, mask), self._related(teacher, mask), -1)  # (windows, heads, tokens)
        return (costs.mean(1) * mask).sum()

    def _related(self, projected: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(windows, heads, tokens, tokens) logits of the relations; nothing relates to padding."""
        windows, tokens, width = projected.shape
        split = projected.float().reshape(windows, tokens, self.heads, width // self.heads).transpose(1, 2)
        products = split @ split.transpose(-1, -2) / (width // self.heads) ** 0.5
        related: torch.Tensor = products.masked_fill(mask[:, None, None, :] == 0, NEVER)
        return related


class _Watched:
    """What the last layer of a model makes of a batch: queries, keys, values."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[int, torch.Tensor] = {}
        modules = dict(models.layers(model)[-1].named_modules()) if len(models.layers(model)) else {}
        found: Sequence[nn.Module] = next(
            ([modules[name] for name in names] for names in PROJECTIONS if names[0] in modules), ()
        )
        if not found:
            kind = cast(Any, model.config).model_type
            raise InputError(f"distillation.relations: not known of a model of type {kind}; leave it out")
        self.width = int(cast(nn.Linear, found[0]).out_features)
        for number, module in enumerate(found):
            module.register_forward_hook(self._keeping(number))

    def take(self) -> list[torch.Tensor]:
        """Those of the batch that was computed last, which are not kept any longer."""
        seen, self._seen = self._seen, {}
        return [seen[number] for number in sorted(seen)]

    def _keeping(self, number: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._seen[number] = output

        return keep
