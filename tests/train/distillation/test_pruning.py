"""The least important parts are removed, and the pruned model loads from its folder as it was made."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Student, Training
from bertline.artifacts.run import RunFolder, read_summary
from bertline.models import pytorch, tokenizer_json
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.train import model as models
from bertline.train.data.prepared import Tokenized
from bertline.train.distillation import pruning, student
from bertline.train.losses import Loss
from tests import encoders
from tests.conftest import classifier, make_texts
from tests.train.conftest import encode, losses, train_here
from tests.train.distillation.test_distillation import teacher, write

__all__ = ["teacher"]
SETTINGS = classifier(32)


class Measured:
    """A classifier of a family, in memory, with texts to measure importance on."""

    def __init__(self, encoder: str, folder: Path) -> None:
        task = catalog.make(SETTINGS)
        self.folder = encoders.make(encoder, folder)
        self.tokenizer = task.tokenizer(self.folder)
        self.model: Any = models.load(self.folder, task, Training(seed=3)).eval()
        examples = [Example(row["text"], None, row["label"]) for row in make_texts(40, seed=5)]
        self.split: Tokenized = encode(examples, task, self.tokenizer)
        self.loss = Loss(SETTINGS, Training(), self.split.windows.targets)

    def prune(self, **kept: int) -> None:
        pruning.prune(self.model, Student(**kept), self.split, self.loss, self.tokenizer)

    def logits(self) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([pytorch.outputs(self.model, self._inputs(index)) for index in range(8)])

    def _inputs(self, index: int) -> dict[str, torch.Tensor]:
        return {n: torch.from_numpy(a) for n, a in self.tokenizer.pad([self.split.windows[index]]).items()}


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "xlm-roberta", "electra"])
class TestFamilies:
    def test_what_gives_nothing_goes_first_and_changes_nothing(self, family: str, tmp_path: Path) -> None:
        measured = Measured(family, tmp_path / "model")
        with torch.no_grad():
            for layer in pruning._layers(measured.model):
                layer.joins_heads.weight[:, :8] = 0  # the first head of four
                layer.joins_units.weight[:, 10:40] = 0
        before = measured.logits()
        measured.prune(attention_heads=3, intermediate_size=34)
        assert torch.allclose(measured.logits(), before, atol=1e-6)

    def test_it_is_read_from_its_folder_as_it_was_made(self, family: str, tmp_path: Path) -> None:
        measured = Measured(family, tmp_path / "model")
        whole = sum(parameter.numel() for parameter in measured.model.parameters())
        measured.prune(attention_heads=2, intermediate_size=16)
        assert sum(parameter.numel() for parameter in measured.model.parameters()) < whole
        measured.model.save_pretrained(tmp_path / "pruned")
        before, measured.model = (
            measured.logits(),
            pytorch.load(tmp_path / "pruned", "ForSequenceClassification").eval(),
        )
        assert torch.allclose(measured.logits(), before, atol=1e-6)
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")  # anyone's


def test_importance_is_what_the_loss_would_change_by(tmp_path: Path) -> None:
    """To first order, scaling a head by 1 ± ε changes the loss of a text by ε times the measured importance."""
    measured = Measured("bert", tmp_path / "model")
    alone = encode([measured.split.examples[0]], catalog.make(SETTINGS), measured.tokenizer)
    found = pruning.measure(measured.model, alone, measured.loss, measured.tokenizer)
    inputs = {n: torch.from_numpy(a) for n, a in measured.tokenizer.pad([alone.windows[0]]).items()}
    targets = measured.loss.stack([alone.windows.targets[0]], 0)
    measured.model.double()

    def loss_of_scaled(weight: torch.Tensor, part: slice, factor: float) -> float:
        with torch.no_grad():
            kept = weight[:, part].clone()
            weight[:, part] *= factor
            loss = measured.loss.sum(measured.model(**inputs).logits, targets, inputs["attention_mask"])
            weight[:, part] = kept
        return float(loss)

    for number, layer in enumerate(pruning._layers(measured.model)):
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            above, below = (loss_of_scaled(layer.joins_heads.weight, part, factor) for factor in (1.001, 0.999))
            assert abs(above - below) / 0.002 == pytest.approx(float(found.heads[number, head]), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("family", ["albert", "mpnet", "mobilebert", "deberta", "modernbert"])
def test_other_families_are_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"models of type {family} cannot be pruned; bert, "):
        Measured(family, tmp_path / "model").prune(attention_heads=2)


@pytest.mark.parametrize(("key", "most"), [("attention_heads", 4), ("intermediate_size", 64)])
def test_no_more_is_kept_than_there_is(key: str, most: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"student.{key}: found 99; the model has {most}"):
        Measured("bert", tmp_path / "model").prune(**{key: 99})


def test_a_pruned_model_keeps_its_heads_as_layers_are_taken_out(tmp_path: Path) -> None:
    measured = Measured("bert", tmp_path / "model")
    measured.prune(attention_heads=2)
    measured.model.save_pretrained(tmp_path / "pruned", safe_serialization=True)
    whole: Any = pytorch.load(tmp_path / "pruned", "ForSequenceClassification").eval()
    made = student.cut(tmp_path / "pruned", Student(layers=[1]), tmp_path / "cache")
    cut: Any = pytorch.load(made, "ForSequenceClassification").eval()
    whole.bert.encoder.layer = whole.bert.encoder.layer[1:]
    measured.model = whole
    expected = measured.logits()
    measured.model = cut
    assert torch.equal(measured.logits(), expected)
    with pytest.raises(InputError, match="heads of this model were pruned before; leave it out"):
        measured.prune(attention_heads=1)
    measured.prune(intermediate_size=8)


def test_units_are_taken_out_of_a_model_whose_layers_have_any_number_of_heads_left(tmp_path: Path) -> None:
    measured = Measured("bert", tmp_path / "model")
    config = transformers.BertConfig(**measured.model.config.to_dict() | {"num_attention_heads": 8})
    measured.model = transformers.BertForSequenceClassification(config)
    measured.prune(attention_heads=3)
    measured.prune(intermediate_size=8)
    assert {layer.joins_units.in_features for layer in pruning._layers(measured.model)} == {8}


@pytest.mark.usefixtures("rank")
def test_what_a_pruned_student_is_measured_with_makes_it_another(teacher: RunFolder, tmp_path: Path) -> None:
    kept = {"layers": [0, 2], "attention_heads": 2}
    recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), student=kept)
    for number, sets in enumerate([[], ["tokens.max_length=16"], ["training.label_smoothing=0.2"], []]):
        train_here(recipe, tmp_path / f"run-{number}", sets)
    assert len(list((tmp_path / ".bertline-cache").glob("student-*"))) == 4  # one cut, and pruned in three ways


@pytest.mark.usefixtures("rank")
def test_who_computes_otherwise_with_the_same_weights_is_pruned_anew(teacher: RunFolder, tmp_path: Path) -> None:
    recipe = write(tmp_path, shutil.copytree(teacher.best, tmp_path / "model"), student={"attention_heads": 2})
    for number, activation in enumerate(["gelu", "relu"]):
        config = json.loads((tmp_path / "model/config.json").read_text())
        (tmp_path / "model/config.json").write_text(json.dumps({**config, "hidden_act": activation}))
        run = train_here(recipe, tmp_path / f"run-{number}")
        assert json.loads((run.best / "config.json").read_text())["hidden_act"] == activation


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("labels", [["positive", "negative"], ["negative", "neutral", "positive"]])
def test_a_head_of_other_labels_does_not_tell_what_matters(tmp_path: Path, labels: list[str]) -> None:
    task = catalog.make(SETTINGS.model_copy(update={"labels": labels}))
    other: Any = models.load(encoders.make("bert", tmp_path / "model"), task, Training())
    other.save_pretrained(tmp_path / "model")
    recipe = write(tmp_path, tmp_path / "model", student={"attention_heads": 2})
    with pytest.raises(InputError, match=r"model: .*/model has labels .*; the student is to learn \['negative', 'posi"):
        train_here(recipe, tmp_path / "run")


@pytest.mark.usefixtures("rank")
def test_outputs_without_names_are_those_that_the_recipe_names(teacher: RunFolder, tmp_path: Path) -> None:
    nameless: Any = pytorch.load(teacher.best, "ForSequenceClassification")
    nameless.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    with tokenizer_json.temporary(teacher.best) as tokenizer:
        models.save(nameless, nameless.state_dict(), tokenizer, tmp_path / "model")
    recipe = write(tmp_path, tmp_path / "model", student={"attention_heads": 2})
    with pytest.raises(InputError, match="the student is to learn"):
        train_here(recipe, tmp_path / "run")
    run = train_here(recipe, tmp_path / "run", ["data.labels=[negative, positive]"])
    assert read_summary(run.path).labels == ["negative", "positive"]
    with pytest.raises(InputError, match="the student is to learn"):  # though it is there by now
        train_here(recipe, tmp_path / "again")


@pytest.mark.parametrize(
    ("labels", "fits"),
    [("PER, LOC", True), ("O, B-PER, I-PER, B-LOC, I-LOC", True), ("O, B-PER, B-LOC, I-PER, I-LOC", False)],
)
def test_tags_without_names_are_in_the_order_that_is_learned(tmp_path: Path, labels: str, fits: bool) -> None:
    """As the recipe lists them; else importance would be that of other outputs."""
    folder = encoders.make("bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_labels": 5, "id2label": None}))
    path = write(tmp_path, folder, "token-classification", student={"attention_heads": 2})
    recipe = recipes.load(path, [f"data.labels=[{labels}]"])
    task = catalog.make(recipe.settings(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
    with nullcontext() if fits else pytest.raises(InputError, match=r"B-LOC', 'I-PER.*; the student is to learn"):
        student._check_labels(recipe, folder, task)


@pytest.mark.usefixtures("rank")
def test_a_pruned_student_is_distilled(teacher: RunFolder, tmp_path: Path) -> None:
    kept = {"layers": [0, 2], "attention_heads": 2, "intermediate_size": 24}
    recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), student=kept)
    run = train_here(recipe, tmp_path / "run")
    model: Any = pytorch.load(run.best, "ForSequenceClassification")
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (2, 24)
    assert {number: len(heads) for number, heads in model.config.pruned_heads.items()} == {0: 2, 1: 2}
    linear = [one for one in model.bert.encoder.modules() if isinstance(one, nn.Linear)]
    assert {(one.in_features, one.out_features) for one in linear} == {(32, 16), (16, 32), (32, 24), (24, 32)}
    assert losses(train_here(recipe, tmp_path / "again")) == losses(run)
    untrained = write(tmp_path, encoders.make("bert", tmp_path / "bare"), student={"attention_heads": 2})
    with pytest.raises(InputError, match="only a model that was fine-tuned ForSequenceClassification will do"):
        train_here(untrained, tmp_path / "bare-run")


@pytest.mark.usefixtures("rank")
def test_a_student_that_keeps_other_parts_is_another(teacher: RunFolder, tmp_path: Path) -> None:
    made = [student.cut(teacher.best, Student(layers=[layer]), tmp_path / "cache") for layer in (0, 1)]
    assert made[0] != made[1]
    recipe = write(tmp_path, teacher.path, student={"attention_heads": 2})
    for heads in (2, 3):
        run = train_here(recipe, tmp_path / f"run-{heads}", [f"student.attention_heads={heads}"])
        gone = json.loads((run.best / "config.json").read_text())["pruned_heads"]
        assert {len(own) for own in gone.values()} == {4 - heads}
