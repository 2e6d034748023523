"""An independent reference: the same training without DeepSpeed, ranks or this project's model code."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from bertline.artifacts.recipe_schema import Recipe
from bertline.train.data.batches import global_batches
from bertline.train.data.splitting import Splits


def train(recipe: Recipe, splits: Splits) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of each step and the weights at the end, in fp32."""
    settings = recipe.training
    tokenizer = transformers.AutoTokenizer.from_pretrained(recipe.model)
    torch.manual_seed(settings.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        recipe.model, num_labels=len(splits.task.labels), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    texts = [example.text for example in splits.train]
    gold = torch.tensor([splits.task.labels.index(example.gold) for example in splits.train])
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=recipe.tokens.max_length)["input_ids"]]
    order = [
        batch
        for epoch in range(settings.epochs)
        for batch in global_batches(lengths, settings.batch_size, settings.seed, epoch)
    ]
    optimizer, schedule = _optimizer(model, recipe, len(order))
    model.train()
    losses = []
    for batch in order:
        inputs = _encode(tokenizer, [texts[index] for index in batch], recipe.tokens.max_length)
        loss = model(**inputs, labels=gold[batch]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict()


def _optimizer(
    model: torch.nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    decays = {n: not (n.endswith("bias") or "LayerNorm" in n) for n, _ in model.named_parameters()}
    groups = [
        {"params": [p for n, p in model.named_parameters() if decays[n]], "weight_decay": recipe.training.weight_decay},
        {"params": [p for n, p in model.named_parameters() if not decays[n]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.training.learning_rate)
    warmup = math.ceil(recipe.training.warmup_ratio * steps)
    return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps)


def _encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
    return dict(tokenizer(texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
