"""The keys of a recipe, section by section: what each means, its unit, its default, and what it may be."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, WithJsonSchema

from bertline.artifacts import task
from bertline.artifacts.task import Input, Long, ProblemType, TaskName, TaskSettings

Places = StrictStr | list[StrictStr]


def _is_share(value: object) -> int | float:
    if (type(value) is int and value >= 1) or (type(value) is float and 0 < value < 1):
        return value
    raise ValueError("a count of 1 or more, or a fraction between 0 and 1")


def _as_rows_have_it(value: object) -> object:
    """A date, which YAML makes of what looks like one, by the spelling that rows are compared by; JSON's is another."""
    if isinstance(value, list):
        return [_as_rows_have_it(each) for each in value]
    return str(value) if isinstance(value, date) else value  # a datetime is one, too


Share = Annotated[int | float, BeforeValidator(_is_share), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
"""Whole ones, too; no string and no truth value."""
SHORTEST_WINDOW = 16
LOSSES = ("loss", "mse")
"""What may pick the best checkpoint beside a task's scores: the less, the better."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values are not changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Take(Section):
    """How many examples each split gets: a count, or a fraction of what there is."""

    train: Share | None = Field(None, description="Training examples: count or fraction. Default: all that are left.")
    validation: Share = Field(0.1, description="Validation examples: count or fraction. Default: 0.1.")
    test: Share = Field(0.1, description="Test examples: count or fraction. Default: 0.1.")


class Data(Section):
    """Where the examples are, and which columns hold what."""

    train: Places = Field(description="File, glob, list of files, pkg:// place or hub id. No default.")
    validation: Places | None = Field(
        None, description="As train. Default: cut from train, stratified by label, questions by whole contexts."
    )
    test: Places | None = Field(
        None, description="As train. Default: cut from train, stratified by label, questions by whole contexts."
    )
    where: dict[str, Annotated[Any, BeforeValidator(_as_rows_have_it)]] = Field(
        {}, description="Rows kept: column equals value, or one of a list. Default: all."
    )
    text: StrictStr = Field("text", description="Column of the text. Default: text.")
    text_pair: StrictStr | None = Field(None, description="Column of a second text. Default: none.")
    label: StrictStr | list[StrictStr] = Field(
        "label",
        min_length=1,
        description="Column of the label, labels or number; a list: a column for each label, which holds 0 or 1. "
        "Default: label.",
    )
    tokens: StrictStr = Field("tokens", description="Column of a sentence's tokens. Default: tokens.")
    tags: StrictStr = Field("tags", description="Column of the tokens' tags. Default: tags.")
    question: StrictStr = Field("question", description="Column of the question. Default: question.")
    context: StrictStr = Field("context", description="Column of the text that answers it. Default: context.")
    answers: StrictStr = Field("answers", description="Column of the answers. Default: answers.")
    unlabelled: Places | None = Field(
        None, description="Texts without labels, as train; all rows are read. A teacher labels them. Default: none."
    )
    labels: list[StrictStr] | None = Field(
        None,
        min_length=1,
        description="Names for labels 0, 1, …; of entities, their types. Default: taken from the data, sorted.",
    )
    take: Take = Field(Take(), description="How many examples each split gets.")

    @property
    def label_names(self) -> list[str] | None:
        """Those of labels 0, 1, …: as given, or of the columns that hold one each; None where the data tells."""
        return self.label if isinstance(self.label, list) else self.labels


class Tokens(Section):
    """How texts become tokens."""

    max_length: Whole = Field(128, ge=4, description="Tokens read at once, special ones included. Default: 128.")
    stride: Whole | None = Field(
        None, ge=0, description="Tokens that neighboring windows share. Default: a quarter of max_length."
    )
    long: Long | None = Field(
        None,
        description="Read of a text over max_length: head, tail, head+tail, or all of it in windows, whose logits are "
        "averaged. Default: head; entities and answers are always looked for in windows.",
    )


class Freeze(Section):
    """Which parameters stay as they are."""

    embeddings: StrictBool = Field(False, description="Freeze the embeddings. Default: false.")
    layers: Whole = Field(0, ge=0, description="Freeze the first N encoder layers. Default: 0.")


class Training(Section):
    """The optimization, in Hugging Face's and DeepSpeed's words."""

    epochs: Whole = Field(3, ge=1, description="Passes over the training examples. Default: 3.")
    learning_rate: Number = Field(2e-5, gt=0, le=1, description="AdamW's peak learning rate. Default: 2e-5.")
    warmup_ratio: Number = Field(0.1, ge=0, le=1, description="Share of steps that warm up, linearly. Default: 0.1.")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="What the learning rate does after warm-up: falls to 0 by a line or cosine, or stays. "
        "Default: linear.",
    )
    layer_decay: Number = Field(
        1.0, gt=0, le=1, description="Learning rate of a layer, as a share of that of the one above. Default: 1."
    )
    weight_decay: Number = Field(0.01, ge=0, le=1, description="AdamW's, not for biases and norms. Default: 0.01.")
    max_grad_norm: Number = Field(1.0, gt=0, description="Gradients are clipped to this norm. Default: 1.0.")
    batch_size: Whole = Field(32, ge=1, description="Examples an optimizer step sees, over all ranks. Default: 32.")
    micro_batch_size: Whole | None = Field(
        None, ge=1, description="Examples a rank computes at once. Default: its whole share of the batch."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 where computed natively, else fp16 on GPUs, else fp32. Default: auto.",
    )
    zero_stage: Whole = Field(1, ge=0, le=3, description="DeepSpeed's ZeRO stage, 0 to 3. Default: 1.")
    gradient_checkpointing: StrictBool = Field(
        False, description="Compute layers twice instead of keeping what they computed: less memory. Default: false."
    )
    freeze: Freeze = Field(Freeze(), description="Which parameters stay as they are.")
    dropout: Number | None = Field(None, ge=0, lt=1, description="Dropout probability. Default: the model's own.")
    label_smoothing: Number = Field(0.0, ge=0, lt=1, description="Share of the target spread evenly. Default: 0.")
    class_weights: Literal["balanced"] | dict[str, Number] | None = Field(
        None,
        description="Weight of labels in the loss, 1 if not named; balanced: the rarer, the more. Default: none.",
    )
    early_stopping_patience: Whole | None = Field(
        None, ge=1, description="End after N evaluations in a row that are not the best. Default: never."
    )
    eval_steps: Whole = Field(0, ge=0, description="Evaluate every N steps; 0: after each epoch. Default: 0.")
    save_steps: Whole = Field(0, ge=0, description="Checkpoint every N steps; 0: after each epoch. Default: 0.")
    save_total_limit: Whole = Field(2, ge=1, description="Checkpoints kept, the newest. Default: 2.")
    timeout: Number | None = Field(
        None,
        gt=0,
        description="Seconds without a step forward of some rank after which the run ends; five times the longest so "
        "far are always allowed. Default: 20 on CPU ranks, 600 on GPUs.",
    )
    logging_steps: Whole = Field(10, ge=1, description="Log a line every N steps. Default: 10.")
    best: StrictStr | None = Field(
        None, description="Validation metric that picks the best checkpoint. Default: the task's first."
    )
    seed: Whole = Field(42, ge=0, lt=2**31, description="Seed of splits, order, dropout and new weights. Default: 42.")


class Student(Section):
    """What is kept of the model: with less of it, the same texts cost less."""

    layers: list[Whole] | None = Field(
        None, min_length=1, description="Encoder layers kept, counted from 0, for example [0, 2, 4]. Default: all."
    )
    attention_heads: Whole | None = Field(
        None, ge=1, description="Attention heads kept in each layer, those that matter most. Default: all."
    )
    intermediate_size: Whole | None = Field(
        None, ge=1, description="Feed-forward units kept in each layer, those that matter most. Default: all."
    )

    @property
    def is_pruned(self) -> bool:
        """Whether parts of layers are left out, which only a trained model can tell the worth of."""
        return self.attention_heads is not None or self.intermediate_size is not None


class Distillation(Section):
    """How a student learns from its teacher (arXiv:1503.02531)."""

    temperature: Number = Field(
        2.0, gt=0, description="Both models' logits are divided by it before they are compared. Default: 2.0."
    )
    weight: Number = Field(
        1.0, gt=0, le=1, description="Share of the teacher in the loss; the labels have the rest. Default: 1.0."
    )
    relations: Number = Field(
        0.0,
        ge=0,
        description="Weight of a loss between how tokens relate in both models' last layers. Default: 0, none.",
    )


class Mlflow(Section):
    """Where MLflow tracks the run, beside its own folder."""

    tracking_uri: StrictStr | None = Field(
        None, description="MLflow's server, for example http://HOST:5000. Default: MLflow is not used."
    )
    experiment: StrictStr = Field("bertline", min_length=1, description="MLflow's experiment. Default: bertline.")


class Search(Section):
    """What `bertline search` tries. Keys are dotted, as `--set` has them. See docs/search.md."""

    folds: Whole = Field(3, ge=2, description="Parts of the data, each held out once. Default: 3.")
    groups: StrictStr | None = Field(
        None,
        description="Column: rows that have the same value in it are in one fold. Default: of questions the context, "
        "else none.",
    )
    grid: dict[StrictStr, Any] = Field(
        {}, description="Values by key: every combination is a trial. Default: none, see space."
    )
    space: dict[StrictStr, Any] = Field(
        {}, description="By key, values or {low, high, log} that the sampler chooses from. Default: none, see grid."
    )
    trials: Whole = Field(20, ge=1, description="Combinations that are chosen from space. Default: 20.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Optuna's that chooses from space: tpe learns from the trials before. Default: tpe."
    )


class Recipe(Section):
    """All of a run. See docs/recipe.md."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="Name of run and bundle: letters, digits, . _ -")
    task: TaskName = Field(description="What the model is to do.")
    problem_type: ProblemType | None = Field(
        None,
        description="Of text classification: one label, several, or a number. Default: single_label_classification.",
    )
    model: StrictStr = Field(
        min_length=1,
        description="Hub id (with @revision), local folder, pkg:// place or run. Required, unless a teacher is named.",
    )
    student: Student = Field(Student(), description="What is kept of the model.")
    teacher: StrictStr | None = Field(
        None, min_length=1, description="A trained model to learn from, named as model is; or a bundle. Default: none."
    )
    distillation: Distillation = Field(Distillation(), description="How it is learned from.")
    data: Data
    tokens: Tokens = Tokens()
    training: Training = Training()
    deepspeed: dict[str, Any] = Field({}, description="Merged last into DeepSpeed's configuration. Default: nothing.")
    mlflow: Mlflow = Mlflow()
    search: Search = Search()

    @property
    def metric(self) -> str:
        """The one that picks the best checkpoint."""
        return self.training.best or self.settings([]).scores[0]

    def settings(self, labels: list[str]) -> TaskSettings:
        """The task as later stages know it."""
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
    """The JSON Schema of a recipe, by which an editor completes and explains its keys."""
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
"""Sections of `deepspeed` that are not for its engine: they tell others of a run."""
COLUMNS = {
    "text-classification": ("text", "label"),
    "token-classification": ("tokens", "tags"),
    "question-answering": ("question", "context", "answers"),
}
"""Those that the examples of a task must have."""
