"""The training loop: batch, forward, backward, step; log, evaluate, keep the best, save.

Everything here happens on every rank at once. What it needs is made in setup.py; what remains after it, in finish.py.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import deepspeed
import deepspeed.comm as dist
import numpy as np
import torch

from bertline.artifacts.errors import BertlineError, PreemptedError
from bertline.artifacts.recipe import Recipe
from bertline.artifacts.run import Best, RunFolder
from bertline.tasks.task import Task
from bertline.tasks.tokens import Tokenizer
from bertline.train import checkpoints, evaluation, metrics, model, preemption, ranks
from bertline.train.batches import Batch, Batches
from bertline.train.checkpoints import State
from bertline.train.deepspeed_config import micro_batch_size
from bertline.train.evaluation import Split
from bertline.train.losses import Loss
from bertline.train.progress import Progress


@dataclass
class Trainer:
    """A run in memory, on one rank."""

    recipe: Recipe
    run: RunFolder
    task: Task
    tokenizer: Tokenizer
    tokenizer_folder: Path
    """Its files, as best/ gets them."""
    engine: Any
    """DeepSpeed's, around the model."""
    loss: Loss
    batches: Batches
    validation: Split
    state: State
    best: Best | None
    """The best evaluation so far, whose model is best/."""
    progress: Progress
    preempted: bool = False
    """A rank was asked to stop; all know of it."""

    def train(self) -> None:
        """Take the steps that are left.

        Raises:
            BertlineError: the loss is not finite.
            PreemptedError: the run was asked to stop; it can go on from a checkpoint.
        """
        state, training, steps = self.state, self.recipe.training, self.batches.steps
        begun = perf_counter() - state.seconds
        with self.progress.training(state.step, steps):
            while state.step < steps and not self.is_patience_lost():
                self.step()
                state.seconds = perf_counter() - begun
                if self.due(training.eval_steps):
                    self.evaluate()
                if self.due(training.save_steps) or self.preempted:
                    state.seconds = perf_counter() - begun
                    checkpoints.save(self.engine, state, self.run.checkpoints, training.save_total_limit)
                if self.preempted and state.step < steps:
                    raise PreemptedError(f"{self.run.path}: stopped as asked after step {state.step}, which is saved")

    def step(self) -> None:
        """One optimizer step, counted and logged."""
        state, started = self.state, perf_counter()
        batch = self.batches.at(state.step)
        learning_rate = self.engine.get_lr()[0]
        loss = self.optimize(batch)
        seconds = perf_counter() - started
        state.step += 1
        state.tokens += batch.tokens
        state.computed_tokens += batch.computed_tokens
        state.training_seconds += seconds
        log = state.step % self.recipe.training.logging_steps == 0 or state.step == self.batches.steps
        speed = state.tokens / state.training_seconds
        self.progress.step(state.step, loss, speed, log)
        if log:
            self.log(loss=loss, learning_rate=learning_rate, tokens_per_second=round(speed, 1))

    def optimize(self, batch: Batch) -> float:
        """Forward, backward and step for one global batch; returns its mean loss.

        The sum of losses is divided by the terms of the global batch, so that the step is the same for any number of
        ranks and micro-batches.

        Raises:
            BertlineError: the loss is not finite; the step is not taken.
        """
        seed_dropout(self.recipe.training.seed, self.state.step)
        self.engine.train()
        total = torch.zeros((), device=ranks.device())
        for micro_batch in batch.micro_batches:
            self.engine.set_gradient_accumulation_boundary(micro_batch is batch.micro_batches[-1])
            micro_batch = micro_batch.to(ranks.device())
            outputs = model.outputs(self.engine, micro_batch.inputs)
            loss = self.loss.sum(outputs, micro_batch.targets) * micro_batch.weight / batch.terms
            self.engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)  # it averages gradients over ranks
            total += loss.detach()
        asked = total.new_tensor(preemption.asked.is_set())
        mean, asks = ranks.sum_over_ranks(torch.stack([total, asked])).tolist()
        self.preempted = asks > 0
        self.check_finite(mean)
        self.engine.step()
        return float(mean)

    def evaluate(self) -> None:
        """Score on the validation split; keep the model as best/ if it is better than all before."""
        metric = self.recipe.metric
        size = micro_batch_size(self.recipe.training, dist.get_world_size())
        scores, tuned = evaluation.evaluate(
            self.engine, self.validation, self.task, self.tokenizer, self.loss, size, self.progress, tune=True
        )
        decision = tuned.settings.decision
        now = Best(step=self.state.step, value=scores[metric], decision=decision)
        verdict = "the best so far"
        if self.best is None or metrics.better(now.value, self.best.value, metric):
            self.best = now
            self.state.since_best = 0
            self.keep_best()
        else:
            self.state.since_best += 1
            verdict = f"not better than {self.best.value:.4f} at step {self.best.step}"
        self.log(validation=scores, decision=decision.model_dump(mode="json"))
        self.progress.say(f"step {now.step}: validation {metric} {now.value:.4f}, {verdict}")

    def keep_best(self) -> None:
        """Write the model as best/, in fp32, gathered from all ranks where ZeRO 3 has spread it."""
        with deepspeed.zero.GatheredParameters(list(self.engine.module.parameters())):
            if ranks.is_first():
                tensors = self.engine.module.state_dict()
                weights = {name: tensor.float().cpu() for name, tensor in tensors.items()}
                model.save(self.engine.module, weights, self.tokenizer_folder, self.run.best)
        dist.barrier()

    def log(self, **values: Any) -> None:
        """Add a line to metrics.jsonl."""
        if ranks.is_first():
            epoch = round(self.state.step / self.batches.steps_per_epoch, 4)
            metrics.append(self.run.metrics, {"step": self.state.step, "epoch": epoch, **values})

    def is_patience_lost(self) -> bool:
        """Whether so many evaluations in a row were not the best that the run is to end early."""
        patience = self.recipe.training.early_stopping_patience
        return patience is not None and self.state.since_best >= patience

    def due(self, every: int) -> bool:
        """Whether something done every so many steps (0: each epoch), and at the end, is to be done now."""
        step = self.state.step
        return step % (every or self.batches.steps_per_epoch) == 0 or step == self.batches.steps

    def check_finite(self, loss: float) -> None:
        """Stop before a loss that is no number spoils the weights."""
        if not math.isfinite(loss):
            raise BertlineError(
                f"step {self.state.step + 1}: the loss is {loss}, so the step was not taken and the run ends here; "
                "a lower training.learning_rate or training.precision=fp32 would help. Checkpoints and best/ are kept"
            )


def seed_dropout(seed: int, step: int) -> None:
    """Make dropout a function of (seed, step, rank), so that a resumed run draws what the first would have drawn."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, dist.get_rank())).generate_state(1)[0]))
