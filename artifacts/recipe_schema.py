"""The keys of a recipe, section by section: meaning, unit, default and allowed values."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, WithJsonSchema

from bertline.artifacts import task
from bertline.artifacts.task import Input, Long, ProblemType, TaskName, TaskSettings

Places = StrictStr | Annotated[list[StrictStr], Field(min_length=1)]


def _is_share(value: object) -> int | float:
    if (type(value) is int and value >= 1) or (type(value) is float and 0 < value < 1):
        return value
    raise ValueError("a count of 1 or more, or a fraction between 0 and 1")


def _as_rows_have_it(value: object) -> object:
    """Spell a date that YAML parsed as rows spell it, so that they compare equal; JSON spells it differently."""
    if isinstance(value, list):
        return [_as_rows_have_it(each) for each in value]
    return str(value) if isinstance(value, date) else value  # a datetime is one, too


Share = Annotated[int | float, BeforeValidator(_is_share), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
"""An int or a float, but no string and no bool."""
SHORTEST_WINDOW = 16
LOSSES = ("loss", "mse")
"""Losses that may pick the best checkpoint in place of a task's scores: lower is better."""


class Section(BaseModel):
    """A section of a recipe: unknown keys are rejected, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Take(Section):
    """How many examples each split gets: a count, or a fraction of all examples."""

    train: Share | None = Field(None, description="Training examples: count or fraction. Default: all that remain.")
    validation: Share = Field(0.1, description="Validation examples: count or fraction. Default: 0.1.")
    test: Share = Field(0.1, description="Test examples: count or fraction. Default: 0.1.")


class Data(Section):
    """Where the examples are, and which columns hold what."""

    train: Places = Field(description="Training data: file, glob, list of files, pkg:// place or hub id. No default.")
    validation: Places | None = Field(
        None,
        description="Validation data, named like train. Default: split off train, stratified by label; questions about "
        "one context stay together.",
    )
    test: Places | None = Field(
        None,
        description="Test data, named like train. Default: split off train, stratified by label; questions about one "
        "context stay together.",
    )
    where: dict[str, Annotated[Any, BeforeValidator(_as_rows_have_it)]] = Field(
        {}, description="Filter of rows: the value, or list of values, that a column must have. Default: all rows."
    )
    text: StrictStr = Field("text", description="Column of the text. Default: text.")
    text_pair: StrictStr | None = Field(None, description="Column of a second text. Default: none.")
    label: StrictStr | list[StrictStr] = Field(
        "label",
        min_length=1,
        description="Column of the label, labels or number; or a list of columns, one per label, that hold 0 or 1. "
        "Default: label.",
    )
    tokens: StrictStr = Field("tokens", description="Column of a sentence's tokens. Default: tokens.")
    tags: StrictStr = Field("tags", description="Column of the tokens' tags. Default: tags.")
    entities: StrictStr = Field("entities", description="Column of the entities of a text. Default: entities.")
    question: StrictStr = Field("question", description="Column of the question. Default: question.")
    context: StrictStr = Field("context", description="Column of the text that is searched. Default: context.")
    answers: StrictStr = Field("answers", description="Column of the answers. Default: answers.")
    unlabelled: Places | None = Field(
        None,
        description="Unlabelled texts for the teacher to label, named like train; all rows are read. Default: none.",
    )
    labels: list[StrictStr] | None = Field(
        None,
        min_length=1,
        description="Names of labels 0, 1, …, or of the entity types (or tags 0, 1, …, if O is one of them). Default: "
        "found in the data, sorted.",
    )
    take: Take = Field(Take(), description="How many examples each split gets.")

    @property
    def label_names(self) -> list[str] | None:
        """Names of labels 0, 1, …: as listed, or the columns that hold one label each; None: found in the data."""
        return self.label if isinstance(self.label, list) else self.labels


class Tokens(Section):
    """How texts become tokens."""

    max_length: Whole = Field(128, ge=4, description="Tokens read at once, special tokens included. Default: 128.")
    stride: Whole | None = Field(
        None, ge=0, description="Tokens that neighboring windows share. Default: a quarter of max_length."
    )
    long: Long | None = Field(
        None,
        description="Part that is read of a text over max_length: head, tail, head+tail, or all of it in windows, "
        "whose logits are averaged. Default: head; token classification and question answering always read windows.",
    )


class Freeze(Section):
    """Which parameters are not trained."""

    embeddings: StrictBool = Field(False, description="Freeze the embeddings. Default: false.")
    layers: Whole = Field(0, ge=0, description="Freeze the first N encoder layers. Default: 0.")


class Training(Section):
    """The optimization; keys are named as in Hugging Face's Trainer and DeepSpeed."""

    epochs: Whole = Field(3, ge=1, description="Passes over the training examples. Default: 3.")
    learning_rate: Number = Field(2e-5, gt=0, le=1, description="Peak learning rate of AdamW. Default: 2e-5.")
    warmup_ratio: Number = Field(0.1, ge=0, le=1, description="Share of steps for linear warmup. Default: 0.1.")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="Learning rate after warmup: linear or cosine decay to 0, or constant. Default: linear.",
    )
    layer_decay: Number = Field(
        1.0, gt=0, le=1, description="Learning rate of each layer as a share of the layer above. Default: 1."
    )
    weight_decay: Number = Field(
        0.01, ge=0, le=1, description="Weight decay of AdamW, not for biases and norms. Default: 0.01."
    )
    max_grad_norm: Number = Field(1.0, gt=0, description="Norm that gradients are clipped to. Default: 1.0.")
    batch_size: Whole = Field(32, ge=1, description="Examples per optimizer step, over all ranks. Default: 32.")
    micro_batch_size: Whole | None = Field(
        None, ge=1, description="Examples per forward pass of a rank. Default: the rank's whole share of the batch."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of training; auto: bf16 if native, else fp16 on GPUs, else fp32. Default: auto.",
    )
    zero_stage: Whole = Field(1, ge=0, le=3, description="DeepSpeed's ZeRO stage, 0 to 3. Default: 1.")
    gradient_checkpointing: StrictBool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time. Default: false."
    )
    freeze: Freeze = Field(Freeze(), description="Which parameters are not trained.")
    dropout: Number | None = Field(None, ge=0, lt=1, description="Dropout probability. Default: the model's own.")
    label_smoothing: Number = Field(
        0.0, ge=0, lt=1, description="Share of the target that is spread evenly over all labels. Default: 0."
    )
    class_weights: Literal["balanced"] | dict[str, Number] | None = Field(
        None,
        description="Loss weights by label, 1 if not named; balanced: higher for rarer labels. Default: none.",
    )
    early_stopping_patience: Whole | None = Field(
        None, ge=1, description="Stop after N evaluations in a row without a new best one. Default: never."
    )
    eval_steps: Whole = Field(0, ge=0, description="Evaluate every N steps; 0: after each epoch. Default: 0.")
    save_steps: Whole = Field(0, ge=0, description="Checkpoint every N steps; 0: after each epoch. Default: 0.")
    save_total_limit: Whole = Field(2, ge=1, description="Number of newest checkpoints to keep. Default: 2.")
    timeout: Number | None = Field(
        None,
        gt=0,
        description="Seconds without progress on some rank after which the run is ended; at least five times the "
        "longest pause so far. Default: 20 on CPU ranks, 600 on GPUs.",
    )
    logging_steps: Whole = Field(10, ge=1, description="Log a line every N steps. Default: 10.")
    best: StrictStr | None = Field(
        None, description="Validation metric that picks the best checkpoint. Default: the task's first."
    )
    seed: Whole = Field(42, ge=0, lt=2**31, description="Seed of splits, order, dropout and new weights. Default: 42.")


class Student(Section):
    """Which parts of the model are kept: a smaller model is faster."""

    layers: list[Whole] | None = Field(
        None, min_length=1, description="Encoder layers to keep, counted from 0, for example [0, 2, 4]. Default: all."
    )
    attention_heads: Whole | None = Field(
        None, ge=1, description="Attention heads to keep in each layer, the most important ones. Default: all."
    )
    intermediate_size: Whole | None = Field(
        None, ge=1, description="Feed-forward units to keep in each layer, the most important ones. Default: all."
    )

    @property
    def is_pruned(self) -> bool:
        """Whether heads or units are pruned by importance, which only a trained model can tell."""
        return self.attention_heads is not None or self.intermediate_size is not None


class Distillation(Section):
    """How a student learns from its teacher (arXiv:1503.02531)."""

    temperature: Number = Field(
        2.0, gt=0, description="Divisor of both models' logits before they are compared. Default: 2.0."
    )
    weight: Number = Field(
        1.0, gt=0, le=1, description="Share of the teacher in the loss; the labels have the rest. Default: 1.0."
    )
    relations: Number = Field(
        0.0,
        ge=0,
        description="Weight of the loss that compares relations between tokens in both models' last layers. "
        "Default: 0, none.",
    )


class Mlflow(Section):
    """Where MLflow tracks the run, in addition to the run folder."""

    tracking_uri: StrictStr | None = Field(
        None, description="MLflow server, for example http://HOST:5000. Default: MLflow is not used."
    )
    experiment: StrictStr = Field("bertline", min_length=1, description="MLflow experiment. Default: bertline.")


class Search(Section):
    """What `bertline search` tries. Keys are dotted, as in `--set`. See docs/search.md."""

    folds: Whole = Field(3, ge=2, description="Number of folds for cross-validation. Default: 3.")
    groups: StrictStr | None = Field(
        None,
        description="Column whose equal values stay in one fold. Default: the context for question answering, "
        "else none.",
    )
    grid: dict[StrictStr, Any] = Field(
        {}, description="Values to try by key; every combination is a trial. Default: none, see space."
    )
    space: dict[StrictStr, Any] = Field(
        {}, description="Values or {low, high, log} by key, for the sampler to draw from. Default: none, see grid."
    )
    trials: Whole = Field(20, ge=1, description="Number of combinations drawn from space. Default: 20.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Optuna sampler that draws from space; tpe learns from earlier trials. Default: tpe."
    )


class Recipe(Section):
    """Everything that defines a run. See docs/recipe.md."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="Name of the run and bundle: letters, digits, . _ -")
    task: TaskName = Field(description="Task of the model.")
    problem_type: ProblemType | None = Field(
        None,
        description="Kind of text classification: one label, several, or a number. "
        "Default: single_label_classification.",
    )
    model: StrictStr = Field(
        min_length=1,
        description="Hub id (with @revision), local folder, pkg:// place or run. Required, unless a teacher is named.",
    )
    student: Student = Field(Student(), description="Which parts of the model are kept.")
    teacher: StrictStr | None = Field(
        None, min_length=1, description="Trained model to learn from, named like model; or a bundle. Default: none."
    )
    distillation: Distillation = Field(Distillation(), description="How the student learns from the teacher.")
    data: Data
    tokens: Tokens = Tokens()
    training: Training = Training()
    deepspeed: dict[str, Any] = Field(
        {}, description="DeepSpeed configuration, merged over what bertline sets. Default: nothing."
    )
    mlflow: Mlflow = Mlflow()
    search: Search = Search()

    @property
    def metric(self) -> str:
        """The metric that picks the best checkpoint."""
        return self.training.best or self.settings([]).scores[0]

    def settings(self, labels: list[str]) -> TaskSettings:
        """The task as recorded for later stages."""
        classifies = self.task == "text-classification"
        long = (self.tokens.long or "head") if classifies else "windows"
        length, stride = self.tokens.max_length, self.tokens.stride
        shared = length // 4 if stride is None else stride
        return TaskSettings(
            task=self.task,
            problem_type=(self.problem_type or "single_label_classification") if classifies else None,
            inputs=INPUTS[self.task] + (["text_pair"] if classifies and self.data.text_pair else []),
            labels=labels,
            tokens=task.Tokens(max_length=length, stride=shared if long == "windows" else 0, long=long),
        )


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors to complete and explain its keys."""
    found = Recipe.model_json_schema()
    found["required"].remove("model")
    named = [{"required": ["model"]}, {"required": ["teacher"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "anyOf": named}


INPUTS: dict[TaskName, list[Input]] = {
    "text-classification": ["text"],
    "token-classification": ["text"],
    "question-answering": ["question", "context"],
}
MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor")
"""Sections of `deepspeed` that configure monitors, not the engine."""
COLUMNS = {
    "text-classification": ("text", "label"),
    "token-classification": ("tokens", "tags"),
    "question-answering": ("question", "context", "answers"),
}
"""Columns that the examples of each task must have."""
