"""The end of a run: best/ is loaded back and scored on the test split, and run.json summarizes the run."""

from datetime import UTC, datetime
from time import perf_counter

from bertline.artifacts import files, machine
from bertline.artifacts.errors import PreemptedError
from bertline.artifacts.run import Summary
from bertline.models import pytorch
from bertline.train import metrics, ranks, watchdog
from bertline.train.data.prepared import Prepared
from bertline.train.loop import Trainer

PACKAGES = ("bertline", "torch", "deepspeed", "transformers", "tokenizers", "datasets", "scikit-learn", "numpy")
"""Packages whose versions a run's results depend on."""


def finish(trainer: Trainer, prepared: Prepared) -> None:
    """Score the model in best/, loaded in fp32 as a user would load it, and write run.json last."""
    started, recipe, state = perf_counter(), trainer.recipe, trainer.state
    metric = recipe.metric
    chosen = ranks.from_first(lambda: metrics.best(trainer.run.metrics, metric))  # only rank 0 writes there
    assert chosen is not None, "the last step evaluates"
    best, validation = chosen
    task = trainer.task.with_decision(best.decision)
    with watchdog.patient():
        kept = pytorch.load(trainer.run.best, task.architecture).to(ranks.device())
    try:
        scores, _ = trainer.score(kept, prepared.test, task)
    except PreemptedError:
        where = f"{trainer.run.path}: stopped as asked while the test split was scored"
        raise PreemptedError(f"{where}; --resume scores it without repeating a step") from None
    watchdog.allow(None)  # what remains depends on disks and on the monitors' servers
    if not ranks.is_first():
        return
    summary = Summary(
        **task.settings.model_dump(),
        name=recipe.name,
        model=recipe.model,
        provenance=trainer.provenance,
        metric=metric,
        best=best,
        validation=validation,
        test=scores,
        data=prepared.splits.counts(),
        ranks=state.ranks,
        precision=state.precision,
        zero_stage=recipe.training.zero_stage,
        steps=state.step,
        seconds=round(state.seconds + perf_counter() - started, 1),
        tokens_per_second=round(state.tokens / state.training_seconds, 1),
        padding_share=round(1 - state.tokens / state.computed_tokens, 4),
        machine=machine.describe(),
        versions=machine.versions(*PACKAGES),
        started=state.started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        files=files.listing(trainer.run.best),
    )
    trainer.monitors.write(state.step, {"test": scores})
    files.write_text(trainer.run.summary, summary.model_dump_json(indent=2) + "\n")
    trainer.progress.say(
        f"{trainer.run.path}: test {metric} {scores[metric]:.4f} on {len(prepared.splits.test):,} texts; "
        f"best/ is of step {best.step}, validation {metric} {best.value:.4f}"
    )
