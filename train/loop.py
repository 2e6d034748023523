"""The training loop: batch, forward, backward, step; log, evaluate, keep the best, save.

Every rank runs this code in lockstep. setup.py prepares what the loop needs; finish.py does what remains afterwards.
The figures of a step are read back while the next step is computed. The loop itself never waits for the device within
a step, but two callees do: BERT in transformers, whose forward pass checks for padding, and ZeRO.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import deepspeed
import deepspeed.comm as dist
import numpy as np
import torch
from torch import nn

from bertline.artifacts.checkpoint import State
from bertline.artifacts.errors import BertlineError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import Best, Provenance, RunFolder
from bertline.models import pytorch
from bertline.tasks.task import Task
from bertline.tasks.tokens import Tokenizer
from bertline.train import checkpoints, evaluation, metrics, model, preemption, ranks, watchdog
from bertline.train.data.batches import Batch, Batches
from bertline.train.data.prepared import Tokenized
from bertline.train.deepspeed_config import micro_batch_size
from bertline.train.monitors import Monitors
from bertline.train.objective import Objective
from bertline.train.progress import Progress


@dataclass
class Trainer:
    """A run in memory, on one rank."""

    recipe: Recipe
    provenance: Provenance
    run: RunFolder
    task: Task
    tokenizer: Tokenizer
    tokenizer_folder: Path
    """The tokenizer's files as they are copied into best/."""
    engine: Any
    """DeepSpeed's engine, which wraps the model."""
    objective: Objective
    batches: Batches
    validation: Tokenized
    state: State
    best: Best | None
    """The best evaluation so far; best/ holds its model."""
    progress: Progress
    monitors: Monitors
    preempted: bool = False
    """Whether any rank was asked to stop; all ranks agree on it."""
    pending: "PendingStep | None" = None
    """The last step, while its figures have not been read."""
    waiting_since: float = 0.0
    """The `perf_counter` time at which the run began to wait for the batch of the coming step."""

    def train(self) -> None:
        """Take the remaining steps.

        Raises:
            BertlineError: the loss, gradients or weights are not finite.
            PreemptedError: the run was asked to stop; it can resume from a checkpoint.
        """
        state, training, steps = self.state, self.recipe.training, self.batches.steps
        begun = perf_counter() - state.seconds
        standstill = training.timeout or (watchdog.ON_CPU if ranks.on_cpu() else watchdog.ON_GPU)
        watchdog.allow(watchdog.FIRST)
        ranks.be_patient()
        with self.progress.training(state.step, steps):
            if state.evaluated < state.step and self.is_due(training.eval_steps):  # it was stopped before that
                self.evaluate()
                self.stop_if_asked()
            self.waiting_since = perf_counter()
            for batch in self.batches.prefetch(state.step, pin=not ranks.on_cpu()):
                if self.should_stop_early():
                    break
                self.step(batch)
                watchdog.allow(standstill)
                if self.is_due(training.eval_steps) and not self.preempted:
                    self.evaluate()
                if self.is_due(training.save_steps) or self.preempted or self.should_stop_early():
                    state.seconds = perf_counter() - begun
                    self.save()
                self.stop_if_asked()
                self.waiting_since = perf_counter()

    def stop_if_asked(self) -> None:
        """Raise PreemptedError if a rank was asked to stop."""
        if self.preempted:
            raise PreemptedError(
                f"{self.run.path}: stopped as asked after step {self.state.step}; a checkpoint is saved"
            )

    def step(self, batch: Batch) -> None:
        """Take one optimizer step; on a GPU, read the figures of the previous step meanwhile."""
        state = self.state
        learning_rate = self.engine.get_lr()[0]
        figures = self.forward_backward_step(batch)
        self.update(figures)
        self.read_pending()
        state.step += 1
        state.tokens += batch.tokens
        state.computed_tokens += batch.computed_tokens
        state.training_seconds += perf_counter() - self.waiting_since
        self.pending = PendingStep(state.step, learning_rate, figures, self.engine.was_step_applied())
        if ranks.on_cpu():  # the figures are already here
            self.read_pending()

    def forward_backward_step(self, batch: Batch) -> ranks.Figures:
        """Forward and backward for one global batch.

        The summed losses are divided by the normalizers of the global batch, so the step is the same for any number
        of ranks and micro-batches.

        Returns:
            The mean loss, and the number of ranks that were asked to stop.
        """
        step, device = self.state.step + 1, ranks.device()
        seed_dropout(self.recipe.training.seed, self.state.step)
        self.engine.train()
        total = torch.zeros((), device=device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            watchdog.beat(f"step {step}, forward of micro-batch {number}")
            self.engine.set_gradient_accumulation_boundary(number == len(batch.micro_batches))
            micro_batch = micro_batch.to(device)
            outputs = pytorch.outputs(self.engine, micro_batch.inputs)
            loss = self.objective.share(outputs, micro_batch, batch.normalizers)
            watchdog.beat(f"step {step}, backward of micro-batch {number}")
            self.engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)  # which averages over ranks
            total += loss.detach()
        watchdog.beat(f"step {step}, update")
        asked = total.new_full((), float(preemption.asked.is_set()))
        return ranks.Figures(ranks.sum_over_ranks(torch.stack([total, asked])))

    def update(self, figures: ranks.Figures) -> None:
        """Let DeepSpeed update the weights; it skips the update if the loss or the gradients are not finite.

        Raises:
            BertlineError: it was skipped. In fp16 that is normal, since it is how DeepSpeed finds its loss scale, until
                the scale is at its minimum.
        """
        step = self.state.step + 1
        try:
            self.engine.step()
        except Exception as error:  # DeepSpeed raises a bare Exception
            if "loss scale already at minimum" not in str(error):
                raise
            raise self.diverged(step, "gradients are not finite") from error
        if not self.engine.was_step_applied() and self.state.precision != "fp16":
            mean = figures.read()[0]
            raise self.diverged(step, "gradients are not finite" if math.isfinite(mean) else f"loss is {mean}")

    def read_pending(self) -> None:
        """Read the figures of the pending step, if there is one, and log them.

        Raises:
            BertlineError: the loss of that step is not finite.
        """
        if self.pending is None:
            return
        (step, learning_rate, figures, applied), self.pending = self.pending, None
        loss, asks = figures.read()
        self.preempted = asks > 0
        if applied and not math.isfinite(loss):
            raise self.diverged(step, f"loss is {loss}")
        log = step % self.recipe.training.logging_steps == 0 or step == self.batches.steps
        speed = self.state.tokens / max(self.state.training_seconds, 1e-9)
        self.progress.step(step, loss, speed, log)
        if log:
            self.log(step, loss=loss, learning_rate=learning_rate, tokens_per_second=round(speed, 1))

    def check_weights(self) -> None:
        """Refuse to keep weights that are not finite: without ZeRO, DeepSpeed applies any gradients."""
        self.read_pending()
        parameters = self.engine.module.parameters()
        if not torch.stack([torch.isfinite(parameter).all() for parameter in parameters]).all():
            raise self.diverged(self.state.step, "weights are not finite")

    def diverged(self, step: int, what: str) -> BertlineError:
        """The error that ends a run whose numbers are no longer finite."""
        precise = "" if self.state.precision == "fp32" else " or training.precision=fp32"
        return BertlineError(
            f"step {step}: the {what}, so the run ends here; a lower training.learning_rate{precise} would help. "
            "Checkpoints and best/ are kept; they are of earlier steps"
        )

    def save(self) -> None:
        """Write a checkpoint to resume from."""
        self.check_weights()
        watchdog.beat(f"step {self.state.step}, checkpoint")
        with watchdog.patient():
            checkpoints.save(self.engine, self.state, self.run, self.recipe.training.save_total_limit)

    def evaluate(self) -> None:
        """Score the validation split, and keep the model as best/ if it beats all earlier evaluations.

        If a rank is asked to stop meanwhile, the evaluation is left to the resumed run.
        """
        self.check_weights()
        metric = self.recipe.metric
        try:
            scores, tuned = self.score(self.engine, self.validation, self.task, tune=metric)
        except PreemptedError:
            self.preempted = True
            return
        self.state.evaluated = self.state.step
        decision = tuned.settings.decision
        now = Best(step=self.state.step, value=scores[metric], decision=decision)
        verdict = "the best so far"
        # rank 0 decides: other CPUs may round differently, but all ranks must write best/ together
        if ranks.from_first(lambda: self.best is None or metrics.better(now.value, self.best.value, metric)):
            self.best = now
            self.state.since_best = 0
            self.keep_best()
        else:
            assert self.best is not None, "every rank has the same best"
            self.state.since_best += 1
            verdict = f"not better than {self.best.value:.4f} at step {self.best.step}"
        self.log(now.step, validation=scores, decision=decision.model_dump(mode="json"))
        self.progress.say(f"step {now.step}: validation {metric} {now.value:.4f}, {verdict}")

    def score(
        self, model: nn.Module, split: Tokenized, task: Task, tune: str | None = None
    ) -> tuple[dict[str, Any], Task]:
        """Score a model on a split: each rank computes its share of the outputs, and every rank gets all scores.

        Args:
            model: the engine or any other model of the task; left in evaluation mode.
            split: labelled texts.
            task: decodes and scores the outputs.
            tune: the metric by which decision thresholds are first tuned on this split; None keeps those of `task`.

        Returns:
            The task's scores with the mean loss as `loss`, and the task with the decision that produced them.

        Raises:
            PreemptedError: a rank was asked to stop.
        """
        size = micro_batch_size(self.recipe.training, dist.get_world_size())
        outputs = evaluation.outputs(
            model, split.windows, split.name, self.tokenizer, size, self.progress, stoppable=True
        )
        watchdog.beat(f"{split.name}, scores")
        with watchdog.patient():  # every rank decodes and scores all texts itself
            if tune:
                task = task.with_decision(task.tune(split.examples, split.windows, outputs, tune))
            answers = task.decode([example.texts for example in split.examples], split.windows, outputs)
            scores = task.score(split.examples, answers)
            loss = evaluation.mean_loss(self.objective.labels, split.windows.targets, outputs)
        return {**scores, "loss": loss}, task

    def keep_best(self) -> None:
        """Write the model as best/ in fp32, gathered from all ranks under ZeRO 3."""
        watchdog.beat(f"step {self.state.step}, best/")
        self.engine.empty_partition_cache()  # under autocast it holds parameters gathered in bf16
        with watchdog.patient(), deepspeed.zero.GatheredParameters(list(self.engine.module.parameters())):
            if ranks.is_first():
                tensors = self.engine.module.state_dict()
                weights = {name: tensor.float().cpu() for name, tensor in tensors.items()}
                model.save(self.engine.module, weights, self.tokenizer_folder, self.run.best)
            ranks.barrier()

    def log(self, step: int, **values: Any) -> None:
        """Add a line to metrics.jsonl and send its values to the monitors."""
        if ranks.is_first():
            epoch = round(step / self.batches.steps_per_epoch, 4)
            metrics.append(self.run.metrics, {"step": step, "epoch": epoch, **values})
            self.monitors.write(step, values)

    def should_stop_early(self) -> bool:
        """Whether as many evaluations in a row as the recipe's patience allows were not the best."""
        patience = self.recipe.training.early_stopping_patience
        return patience is not None and self.state.since_best >= patience

    def is_due(self, every: int) -> bool:
        """Whether something done every `every` steps (0: each epoch), and after the last step, is due now."""
        step = self.state.step
        return step % (every or self.batches.steps_per_epoch) == 0 or step == self.batches.steps


class PendingStep(NamedTuple):
    """A step whose figures may still be on their way from the device."""

    step: int
    learning_rate: float
    figures: ranks.Figures
    applied: bool
    """False if DeepSpeed skipped the update, as it sometimes does in fp16."""


def seed_dropout(seed: int, step: int) -> None:
    """Make dropout a function of (seed, step, rank), so a resumed run draws what the uninterrupted run would have."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, dist.get_rank())).generate_state(1)[0]))
