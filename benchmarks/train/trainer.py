"""The Hugging Face Trainer with its defaults, and with `group_by_length`."""

from collections.abc import Callable
from typing import Any

import datasets
import transformers

from bertline.artifacts import places
from bertline.artifacts import recipe as recipes
from bertline.benchmarks.train import plain
from bertline.benchmarks.train.job import Clock, Counts, Job


class Ticking(transformers.TrainerCallback):  # type: ignore[misc]
    """Records when each step ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.tick()


class Counting:
    """A collator that counts the tokens of its batches, which the Trainer uses in the same order."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate
        self.counts: Counts = []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self._collate(rows)
        self.counts.append(plain.tokens(batch))
        return batch


def train(job: Job, clock: Clock) -> Counts:
    """Train with the job's device, precision, batch size, learning rate and number of steps, and defaults otherwise."""
    recipe = recipes.read(job.recipe)
    labels, rows = plain.examples(job)
    tokenizer = transformers.AutoTokenizer.from_pretrained(places.model_folder(recipe.model))
    collate = Counting(transformers.DataCollatorWithPadding(tokenizer))  # the Trainer's default with a tokenizer
    settings = transformers.TrainingArguments(
        output_dir=str(job.folder),
        max_steps=job.steps,
        per_device_train_batch_size=recipe.training.batch_size,
        learning_rate=recipe.training.learning_rate,
        bf16=recipe.training.precision == "bf16",
        use_cpu=job.device == "cpu",
        dataloader_pin_memory=job.device == "cuda",  # which warns if there is no GPU
        group_by_length=job.kind == "grouped",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model, data = plain.classifier(job, labels), datasets.Dataset.from_list(rows)
    transformers.Trainer(model, settings, train_dataset=data, data_collator=collate, callbacks=[Ticking(clock)]).train()
    return collate.counts[: job.steps]
