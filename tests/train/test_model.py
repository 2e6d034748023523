"""The model of a run: what is frozen, what decays, how dropout is set in each family, how best/ is replaced."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertline.artifacts.errors import InputError
from bertline.artifacts.recipe_schema import Training
from bertline.artifacts.task import TaskSettings, Tokens
from bertline.models import pytorch, tokenizer_json
from bertline.tasks import catalog
from bertline.train import model as models
from tests import encoders
from tests.conftest import make_model

LABELS = ["negative", "neutral", "positive"]
TASK = catalog.make(
    TaskSettings(
        task="text-classification", problem_type="single_label_classification", inputs=["text"], labels=LABELS,
        tokens=Tokens(max_length=32),
    )
)  # fmt: skip
SMALL = {"vocab_size": 50, "num_attention_heads": 2, "pad_token_id": 0}
FAMILIES = {
    "bert": transformers.BertConfig(**SMALL, hidden_size=8, num_hidden_layers=2, intermediate_size=8),
    "roberta": transformers.RobertaConfig(**SMALL, hidden_size=8, num_hidden_layers=2, intermediate_size=8),
    "electra": transformers.ElectraConfig(
        **SMALL, hidden_size=8, embedding_size=8, num_hidden_layers=2, intermediate_size=8
    ),
    "distilbert": transformers.DistilBertConfig(vocab_size=50, dim=8, n_layers=2, n_heads=2, hidden_dim=8),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bare encoder of a family."""
    transformers.AutoModel.from_config(FAMILIES[request.param]).save_pretrained(tmp_path / request.param)
    return tmp_path / str(request.param)


def test_a_model_that_told_three_classes_apart_answers_questions(family: Path) -> None:
    """The number of labels in its config.json must not apply: start and end are two."""
    config = json.loads((family / "config.json").read_text())
    (family / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    settings = TaskSettings(
        task="question-answering", problem_type=None, inputs=["question", "context"], labels=[],
        tokens=Tokens(max_length=32),
    )  # fmt: skip
    model = models.load(family, catalog.make(settings), Training()).eval()
    inputs = dict.fromkeys(("input_ids", "attention_mask"), torch.ones(2, 5, dtype=torch.long))
    outputs, whole = pytorch.outputs(model, inputs), model(**inputs)
    assert outputs.shape == (2, 5, 2)
    assert torch.equal(outputs[..., 0], whole.start_logits)
    assert torch.equal(outputs[..., 1], whole.end_logits)


@pytest.mark.parametrize("dropout", [None, 0.1])
def test_a_family_that_transformers_does_not_know_is_refused(family: Path, dropout: float | None) -> None:
    config = json.loads((family / "config.json").read_text())
    (family / "config.json").write_text(json.dumps(config | {"model_type": "tomorrow"}))
    with pytest.raises(InputError, match=r"not a model .*tomorrow"):
        models.load(family, TASK, Training(dropout=dropout))


def test_memory_that_runs_out_is_no_fault_of_the_folder(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", full)
    with pytest.raises(MemoryError):
        models.load(family, TASK, Training())


def test_every_family_loads_computes_and_freezes(family: Path) -> None:
    training = Training.model_validate({"dropout": 0.0, "freeze": {"embeddings": True, "layers": 1}})
    classifier = models.load(family, TASK, training)
    frozen = [name for name, parameter in classifier.named_parameters() if not parameter.requires_grad]
    assert any(".embeddings." in name for name in frozen)
    assert any(".layer.0." in name for name in frozen)
    assert not any(".layer.1." in name or "classifier" in name for name in frozen)
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids, "token_type_ids": torch.zeros_like(ids)}
    first, again = (pytorch.outputs(classifier.train(), inputs) for _ in range(2))
    assert first.shape == (2, 3)
    assert torch.equal(first, again), "some dropout is left"


def test_modernbert_takes_no_attention_that_knows_no_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With flash-attn installed, transformers would choose it."""
    folder = encoders.make("modernbert", tmp_path / "model")
    monkeypatch.setattr(transformers.ModernBertPreTrainedModel, "_flash_attn_2_can_dispatch", lambda *_: True)
    loaded = models.load(folder, TASK, Training())
    config: Any = loaded.config
    assert config._attn_implementation == "sdpa"


def test_modernbert_does_not_compile_itself(tmp_path: Path) -> None:
    """By default it does so on a GPU, which requires a C compiler."""
    loaded = models.load(encoders.make("modernbert", tmp_path / "model"), TASK, Training())
    config: Any = loaded.config
    assert config.reference_compile is False


def test_labels_and_seed(model: Path) -> None:
    one, same = (models.load(model, TASK, Training(seed=1)) for _ in range(2))
    other = models.load(model, TASK, Training(seed=2))
    config: Any = one.config
    assert config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert torch.equal(*(made.get_parameter("classifier.weight") for made in (one, same)))
    assert not torch.equal(*(made.get_parameter("classifier.weight") for made in (one, other)))
    assert torch.equal(*(made.get_parameter("bert.pooler.dense.weight") for made in (one, other)))


def test_biases_and_norms_do_not_decay(model: Path) -> None:
    classifier = models.load(model, TASK, Training())
    decaying, others = models.optimizer(classifier, Training(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in others["params"])
    assert not any(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in decaying["params"])


def test_each_layer_learns_slower_than_the_one_above(family: Path) -> None:
    classifier = models.load(family, TASK, Training())
    optimizer = models.optimizer(classifier, Training(learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1))
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in classifier.named_parameters():
        depth = 3 if ".embeddings." in name else 2 if ".layer.0." in name else 1 if ".layer.1." in name else 0
        assert found.pop(id(parameter)) == (1e-3 * 0.5**depth, 0.1 if parameter.ndim > 1 else 0.0), name
    assert not found


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("electra", {"electra.embeddings_project.weight", "electra.embeddings_project.bias"}, set()),
        ("mpnet", {"mpnet.encoder.relative_attention_bias.weight"}, set()),
        ("deberta", {"deberta.encoder.rel_embeddings.weight"}, set()),
        (
            "deberta-v2",
            {f"deberta.encoder.{each}" for each in ("rel_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")},
            set(),
        ),
        ("bert", set(), {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}),
        ("modernbert", set(), {"model.final_norm.weight"}),
    ],
)
def test_what_layers_share_learns_as_embeddings_do(name: str, below: set[str], above: set[str]) -> None:
    family = encoders.ENCODERS[name]
    config = getattr(transformers, family.config)(**family.settings, vocab_size=50, pad_token_id=0)
    classifier = transformers.AutoModelForSequenceClassification.from_config(config)
    optimizer = models.optimizer(classifier, Training(learning_rate=1e-3, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    of_encoder = {f"{classifier.base_model_prefix}.{name}" for name, _ in classifier.base_model.named_parameters()}
    found: dict[float, set[str]] = {}
    for each, parameter in classifier.named_parameters():
        if each in of_encoder and ".embeddings." not in each and ".layer" not in each:
            found.setdefault(rates[id(parameter)], set()).add(each)
    assert found == {rate: names for rate, names in ((1e-3 / 8, below), (1e-3, above)) if names}


SCHEDULES = {
    "linear": [1 - i / 8 for i in range(8)],
    "cosine": [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)],
    "constant": [1.0] * 8,
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedule_warms_up_and_goes_on(kind: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    training = Training(warmup_ratio=0.15, lr_scheduler_type=kind)
    schedule = models.schedule(optimizer, training, steps=10)  # 1.5 steps of warm-up, rounded up
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.0, 0.5, *SCHEDULES[kind]])


def test_weights_that_lack_a_layer_are_refused(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "broken")
    tensors = load_file(model / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "broken/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for bert\.encoder\.layer\.1\.output\.dense\.weight; its encoder"):
        models.load(tmp_path / "broken", TASK, Training())


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("max_position_embeddings", 128, "bert.embeddings.position_embeddings.weight has shape (128, 32) by the one"),
        ("vocab_size", 999, "bert.embeddings.word_embeddings.weight has shape (999, 32) by the one"),
        ("intermediate_size", 77, "bert.encoder.layer.0.intermediate.dense.bias has shape (77,) by the one, (64,) by"),
    ],
)
@pytest.mark.parametrize("labels", [None, ("negative", "positive")])
def test_weights_of_another_shape_than_config_says_are_refused(
    tmp_path: Path, labels: tuple[str, ...] | None, key: str, value: int, fault: str
) -> None:
    """Except those of a head for other labels, which is replaced by a new one."""
    folder = make_model(tmp_path / "model", labels)
    models.load(folder, TASK, Training())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(InputError, match=re.escape(f"config.json and weights do not fit: {fault}")):
        models.load(folder, TASK, Training())


def test_code_in_a_model_folder_is_refused(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "hostile")
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "hostile/config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(InputError, match="auto_map"):
        models.load(tmp_path / "hostile", TASK, Training())


def test_what_is_saved_tells_the_type_of_its_weights(model: Path, tmp_path: Path) -> None:
    """config.json must name the dtype of the saved weights, in which transformers' pipeline would compute."""
    classifier = models.load(model, TASK, Training())
    weights = {name: tensor.float() for name, tensor in classifier.state_dict().items()}
    with tokenizer_json.temporary(model) as tokenizer:
        models.save(classifier.half(), weights, tokenizer, tmp_path / "best")
    assert transformers.AutoModel.from_pretrained(tmp_path / "best", dtype="auto").dtype == torch.float32


def test_a_saved_folder_is_replaced_whole(model: Path, tmp_path: Path) -> None:
    classifier = models.load(model, TASK, Training())
    best = tmp_path / "best"
    with tokenizer_json.temporary(model) as tokenizer:
        models.save(classifier, classifier.state_dict(), tokenizer, best)
        (best / "stale").touch()
        torch.nn.init.ones_(classifier.get_parameter("classifier.weight"))
        models.save(classifier, classifier.state_dict(), tokenizer, best)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]
    assert not (best / "stale").exists()
    assert pytorch.load(best, TASK.architecture).get_parameter("classifier.weight").min() == 1
