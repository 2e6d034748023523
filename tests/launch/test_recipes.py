"""Every recipe that is shipped: it reads, says what it is, and its first batch is built with a stand-in tokenizer."""

from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts import recipe as recipes
from bertline.artifacts.recipe_schema import Recipe
from bertline.tasks import catalog
from bertline.tasks.task import Task
from bertline.train.data import sources
from bertline.train.data.batches import Batches
from bertline.train.losses import Loss
from bertline.train.objective import Objective
from tests import encoders
from tests.train.conftest import encode

FOLDER = Path(__file__).parents[2] / "launch" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SETTINGS = {
    # model, max_length, batch_size, learning_rate, epochs
    "clinical-ner-modernbert": ("thomas-sounack/BioClinical-ModernBERT-base", 256, 16, 3e-5, 10),
    "imdb-bert-base": ("google-bert/bert-base-uncased", 512, 16, 2e-5, 3),
    "imdb-distilbert": ("distilbert/distilbert-base-uncased", 512, 16, 2e-5, 3),
    "imdb-roberta-large": ("FacebookAI/roberta-large", 512, 32, 1e-5, 4),
    "squad-bert-large": ("google-bert/bert-large-uncased", 512, 8, 2e-5, 4),
    "tweets-bert-base": ("google-bert/bert-base-uncased", 128, 16, 3e-5, 3),
    "xnli-mbert": ("google-bert/bert-base-multilingual-cased", 128, 32, 2e-5, 3),
}


def row(recipe: Recipe, number: int) -> dict[str, Any]:
    """A row in the columns that the recipe names."""
    data, city = recipe.data, ("Bonn", "Berlin", "Paris")[number % 3]
    if recipe.task == "token-classification":
        return {data.tokens: [city, "is", "here"], data.tags: ["B-disease", "O", "O"]}
    if recipe.task == "question-answering":
        answers = {"text": [city], "answer_start": [3]}
        return {data.question: "where?", data.context: f"in {city} " + "it is " * 600, data.answers: answers}
    labels = data.labels or ["a", "b"]
    pair = {data.text_pair: "it is here"} if data.text_pair else {}
    return {data.text: f"{city} is here", str(data.label): labels[number % len(labels)], **pair}


def prepared(recipe: Recipe) -> tuple[Task, list[Any]]:
    reader = catalog.make(recipe.settings([]))
    examples = [reader.read(row(recipe, number), sources.columns(recipe.data), "row") for number in range(64)]
    return catalog.make(recipe.settings(reader.find_labels(examples))), examples


def test_all_well_known_settings_are_shipped() -> None:
    assert {*SETTINGS, "demo", "ner-tweets"} == set(RECIPES)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings(name: str) -> None:
    recipe = recipes.read(FOLDER / f"{name}.yaml")
    training = recipe.training
    found = (recipe.model, recipe.tokens.max_length, training.batch_size, training.learning_rate, training.epochs)
    assert found == SETTINGS[name]
    assert recipe.name == name
    assert (FOLDER / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_batch(name: str, tmp_path: Path) -> None:
    recipe = recipes.read(FOLDER / f"{name}.yaml")
    encoders.make_tokenizer("wordpiece").save_pretrained(tmp_path)
    task, examples = prepared(recipe)
    tokenizer = task.tokenizer(tmp_path)
    split = encode(examples, task, tokenizer)
    batches = Batches(
        split, Objective(Loss(task.settings, recipe.training, split.windows.targets)), tokenizer, recipe.training, 0, 1
    )
    (micro_batch, *_) = batches.at(0).micro_batches
    inputs = micro_batch.inputs["input_ids"]
    assert len(inputs) == len(micro_batch.targets) == (recipe.training.micro_batch_size or recipe.training.batch_size)
    assert inputs.shape[1] <= recipe.tokens.max_length
    if recipe.task == "question-answering":
        assert len(split.windows) > len(examples), "long contexts are read in windows"


@pytest.mark.parametrize("name", ["demo", "ner-tweets"])
def test_what_needs_no_hub_is_checked_against_its_files(name: str) -> None:
    assert recipes.load(FOLDER / f"{name}.yaml").name == name
