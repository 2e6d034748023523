"""A student learns its teacher's outputs: for every task, on unlabelled texts too, cached, by window or by text."""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from bertline.artifacts import encoder, files, machine
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.artifacts.recipe_schema import Distillation, Student, Training
from bertline.artifacts.run import RunFolder
from bertline.artifacts.task import TaskSettings, Tokens
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.models import pytorch
from bertline.serve.engine import Engine
from bertline.tasks import catalog
from bertline.tasks.task import IGNORED, Output
from bertline.tasks.tokens import Encoded
from bertline.train import evaluation, preemption
from bertline.train.data.micro_batch import MicroBatch
from bertline.train.distillation import student, teacher_outputs
from bertline.train.distillation.relations import Relations
from bertline.train.distillation.teacher import find
from bertline.train.loop import Trainer
from bertline.train.losses import Loss, TeacherLoss
from bertline.train.objective import Normalizers, Objective
from tests import encoders
from tests.conftest import make_model, make_texts
from tests.export.conftest import measure_briefly
from tests.train.conftest import losses, train_here

CLASSES = ["a", "b", "c"]


def settings(task: str, problem: str | None = None) -> TaskSettings:
    raw: dict[str, Any] = {"task": task, "problem_type": problem, "inputs": ["text"], "labels": CLASSES}
    return TaskSettings.model_validate({**raw, "tokens": Tokens(max_length=8)})


def numbers(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))


def divergence(teacher: torch.Tensor, own: torch.Tensor) -> float:
    """KL(teacher ‖ student) of one set of logits, written out."""
    p, q = (each.detach().double().softmax(0) for each in (teacher, own))
    return float((p * (p.log() - q.log())).sum())


def test_of_a_class_it_is_the_divergence_of_softened_probabilities() -> None:
    loss = TeacherLoss(settings("text-classification", "single_label_classification"), Distillation(temperature=3.0))
    own, teacher = numbers(4, 3), numbers(3, 4).T
    expected = 9 * sum(divergence(teacher[row] / 3, own[row] / 3) for row in range(4))
    assert float(loss.sum(own, teacher, torch.ones(4, 5))) == pytest.approx(expected, rel=1e-5)
    assert float(loss.sum(own, own, torch.ones(4, 5))) == pytest.approx(0, abs=1e-6)


def test_of_entities_padding_counts_for_nothing() -> None:
    loss = TeacherLoss(settings("token-classification"), Distillation(temperature=1.0))
    own, teacher = numbers(2, 5, 3), numbers(3, 5, 2).permute(2, 1, 0)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    expected = sum(divergence(teacher[w, t], own[w, t]) for w in (0, 1) for t in range(5) if mask[w, t])
    assert float(loss.sum(own, teacher, mask)) == pytest.approx(expected, rel=1e-5)
    assert loss.terms(5) + loss.terms(2) == 7


def test_of_an_answer_it_is_over_the_places_of_both_ends() -> None:
    loss = TeacherLoss(settings("question-answering"), Distillation(temperature=1.0))
    teacher = loss.stack([numbers(5, 2).numpy(), numbers(3, 2).numpy()], 5)
    own, mask = numbers(2, 5, 2), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = sum(
        divergence(teacher[window, :length, end], own[window, :length, end]) / 2
        for window, length in ((0, 5), (1, 3))
        for end in (0, 1)
    )
    assert float(loss.sum(own, teacher, mask)) == pytest.approx(expected, rel=1e-5)


def test_of_several_labels_and_of_a_number() -> None:
    several = TeacherLoss(settings("text-classification", "multi_label_classification"), Distillation(temperature=2.0))
    own, teacher = numbers(4, 3), numbers(3, 4).T
    expected = 4 * 4 * functional.binary_cross_entropy((own / 2).sigmoid(), (teacher / 2).sigmoid())
    assert float(several.sum(own, teacher, torch.ones(4, 5))) == pytest.approx(float(expected), rel=1e-5)
    number = TeacherLoss(settings("text-classification", "regression"), Distillation())
    assert float(number.sum(own[:, :1], teacher[:, :1], torch.ones(4, 5))) == pytest.approx(
        float(((own[:, 0] - teacher[:, 0]) ** 2).sum()), rel=1e-5
    )


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_a_text_without_a_label_teaches_nothing_by_it(problem: str) -> None:
    known: Any = {"regression": np.float32(0.5), "multi_label_classification": np.array([1, 0, 1], np.float32)}
    unknown: Any = {"regression": np.float32(np.nan), "multi_label_classification": np.full(3, np.nan, np.float32)}
    targets = [np.asarray(each.get(problem, np.int64(last))) for each, last in ((known, 1), (unknown, IGNORED))]
    loss = Loss(settings("text-classification", problem), Training(), targets)
    outputs = numbers(2, 3).requires_grad_()
    mask = torch.ones(2, 8)
    both = loss.sum(outputs, loss.stack(targets, 8), mask)
    alone = loss.sum(outputs[:1], loss.stack(targets[:1], 8), mask[:1])
    assert both.item() == pytest.approx(alone.item())
    assert both.item() > 0
    both.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert not outputs.grad[1].any()
    assert [loss.terms(target) for target in targets] == [1, 0]


def test_labels_and_teacher_share_the_loss() -> None:
    known = settings("text-classification", "single_label_classification")
    labels, taught = Loss(known, Training(), []), TeacherLoss(known, Distillation())
    outputs, teacher, targets = numbers(2, 3), numbers(3, 2).T, torch.tensor([1, 2])
    mask, normalizers = torch.ones(2, 4), Normalizers(2.0, 2.0, 8.0)
    parts = [labels.sum(outputs, targets, mask) / 2, taught.sum(outputs, teacher, mask) / 2]
    share = Objective(labels, taught, 0.25).share(
        outputs, MicroBatch({"attention_mask": mask}, targets, teacher, 1.0), normalizers
    )
    assert float(share) == pytest.approx(float(0.75 * parts[0] + 0.25 * parts[1]))


@pytest.mark.parametrize("encoder", [name for name in encoders.ENCODERS if name != "albert"])
def test_a_cut_model_is_the_model_without_the_other_layers(encoder: str, tmp_path: Path) -> None:
    folder = encoders.make(encoder, tmp_path / "model")
    made = student.cut(folder, Student(layers=[0]), tmp_path / "cache")
    whole, cut = (pytorch.load(each, "").eval() for each in (folder, made))
    count = whole.config.num_hidden_layers  # type: ignore[union-attr]
    for module in whole.modules():
        for name, inner in list(module.named_children()):
            if isinstance(inner, torch.nn.ModuleList) and len(inner) == count and ".ffn" not in name:
                setattr(module, name, inner[:1])
    ids = torch.tensor([[1, 7, 8, 9, 2]])
    with torch.inference_mode():
        outputs = [each(input_ids=ids).last_hidden_state for each in (whole, cut)]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)
    assert student.cut(folder, Student(layers=[0]), tmp_path / "cache") == made


def test_layers_that_share_their_weights_are_not_cut(tmp_path: Path) -> None:
    folder = encoders.make("albert", tmp_path / "model")
    with pytest.raises(InputError, match="a model whose layers share weights cannot be cut"):
        student.cut(folder, Student(layers=[0]), tmp_path / "cache")


def test_layers_that_would_compute_otherwise_in_another_place_are_not_moved(tmp_path: Path) -> None:
    """In this ModernBERT, every second layer attends to the whole text."""
    folder = encoders.make("modernbert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    for kept in ([1], [0, 2], [2, 3]):  # the last: layer 2 has a norm that would be lost
        with pytest.raises(InputError, match="in modernbert, layers 0, 2, 4, … attend to the whole text"):
            student.cut(folder, Student(layers=kept), tmp_path / "cache")
    (folder / "config.json").write_text(json.dumps(config | {"global_attn_every_n_layers": 1}))
    with pytest.raises(InputError, match="keep layer 0"):
        student.cut(folder, Student(layers=[1]), tmp_path / "cache")


def test_layers_are_spread_over_the_model() -> None:
    bert = {"model_type": "bert", "num_hidden_layers": 6}
    assert [student.spread(count, bert) for count in (1, 2, 3, 4)] == [[0], [0, 5], [0, 2, 5], [0, 2, 3, 5]]


def test_evenly_spaced_layers_take_turns_where_the_models_do() -> None:
    modern = {"model_type": "modernbert", "num_hidden_layers": 22}
    assert student.spread(2, modern) == [0, 1]
    assert student.spread(7, modern) == [0, 1, 2, 12, 13, 14, 21]
    for layers in range(1, 29):
        for every in (1, 2, 3, 4):
            config = {**modern, "num_hidden_layers": layers, "global_attn_every_n_layers": every}
            for count in range(1, layers + 1):
                kept = student.spread(count, config)
                assert len(kept) == count
                assert kept == sorted({*kept} & {*range(layers)})
                student._check_places(config, kept)


# whole runs

KINDS = {"text-classification": "text", "token-classification": "tokens", "question-answering": "question"}


def rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    texts = make_texts(count, seed=seed)
    if task == "text-classification":
        return [dict(row) for row in texts]
    words = [row["text"].split() for row in texts]
    if task == "token-classification":
        return [{"tokens": one, "tags": ["B-X", *["O"] * (len(one) - 1)]} for one in words]
    return [
        {"question": f"what {one[1]}?", "context": " ".join(one), "answers": {"text": [one[0]], "answer_start": [0]}}
        for one in words
    ]


def write(folder: Path, place: Path | str, task: str = "text-classification", **keys: Any) -> Path:
    """Write a recipe with 60 labelled training texts, and the given keys."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(task, 100, 1)))
    own = ("text", "tokens", "question", "context")
    texts = [{name: row[name] for name in own if name in row} for row in (*rows(task, 100, 1), *rows(task, 40, 2))]
    if task == "token-classification":  # nobody has cut them into words
        texts = [{"text": " ".join(row["tokens"])} for row in texts]
    (folder / "unlabelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    raw: dict[str, Any] = {
        "name": "tiny", "task": task, "model": str(place),
        "data": {"train": str(folder / "rows.jsonl"), "take": {"train": 60, "validation": 20, "test": 20}},
        "tokens": {"max_length": 32},
        "training": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "precision": "fp32", "dropout": 0.0,
                     "logging_steps": 1},
    }  # fmt: skip
    data = {**raw["data"], **keys.pop("data", {})}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**raw, **keys, "data": data}))
    return folder / "recipe.yaml"


def plain_logits(folder: Path, texts: list[str], length: int) -> torch.Tensor:
    """The logits of texts, computed with transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = [loaded(**tokenizer(one, truncation=True, max_length=length, return_tensors="pt")) for one in texts]
    return torch.cat([one.logits for one in found])


def teaching(seen: dict[str, Output]) -> Callable[[Trainer], None]:
    """Collects the teacher's output for each training text of a run in `seen`."""

    def look(trainer: Trainer) -> None:
        split = trainer.batches._split
        assert split.teacher is not None
        for window, output in zip(split.windows, split.teacher, strict=True):
            seen[split.examples[window.text].texts[0]] = output.copy()

    return look


@pytest.fixture(scope="module")
def teacher(rank: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("teacher")
    sets = ["training.learning_rate=1e-2", "training.epochs=3"]  # so that its outputs differ between texts
    return train_here(write(folder, make_model(folder / "model", layers=3)), folder / "run", sets)


@pytest.mark.usefixtures("rank")
class TestRuns:
    def test_who_is_its_own_teacher_has_nothing_to_learn(self, teacher: RunFolder, tmp_path: Path) -> None:
        recipe = write(tmp_path, "", teacher=str(teacher.path))
        raw = yaml.safe_load(recipe.read_text())
        del raw["model"]  # it is the teacher's
        recipe.write_text(yaml.safe_dump(raw))
        found = losses(train_here(recipe, tmp_path / "run", ["training.warmup_ratio=1.0"]))
        assert found[0] == pytest.approx(0, abs=1e-6)

    def test_it_is_asked_once_and_for_texts_without_labels_too(
        self, teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        more = {"unlabelled": str(tmp_path / "unlabelled.jsonl")}
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), data=more, student={"layers": [0, 2]})
        first = train_here(recipe, tmp_path / "first")
        summary = runs.read_summary(first.path)
        assert summary.data == {"train": 60, "validation": 20, "test": 20, "unlabelled": 40}
        assert summary.steps == math.ceil(100 / 16)
        assert json.loads((first.best / "config.json").read_text())["num_hidden_layers"] == 2
        asked, spied = evaluation.outputs, []

        def spy(*arguments: Any, **named: Any) -> Any:
            spied.append(arguments[2])
            return asked(*arguments, **named)

        monkeypatch.setattr(evaluation, "outputs", spy)
        assert losses(train_here(recipe, tmp_path / "second")) == losses(first)
        assert spied == ["validation", "test"]
        monkeypatch.setattr(machine, "versions", lambda *packages: dict.fromkeys(packages, "another"))
        train_here(recipe, tmp_path / "after an upgrade")
        assert spied[2:] == [teacher_outputs.ASKING, "validation", "test"]

    def test_who_computes_otherwise_with_the_same_weights_is_asked_anew(
        self, teacher: RunFolder, tmp_path: Path
    ) -> None:
        asked = shutil.copytree(teacher.best, tmp_path / "asked")
        recipe = write(tmp_path, teacher.path, teacher=str(asked))
        said: list[dict[str, Output]] = [{}, {}]
        for seen, activation in zip(said, ["gelu", "relu"], strict=True):
            config = json.loads((asked / "config.json").read_text())
            (asked / "config.json").write_text(json.dumps({**config, "hidden_act": activation}))
            train_here(recipe, tmp_path / activation, look=teaching(seen))
        assert all(not np.array_equal(said[0][text], said[1][text]) for text in said[0])

    @pytest.mark.parametrize("sets", [[], ["tokens.max_length=4"]])  # window by window; text by text
    def test_who_is_asked_to_stop_asks_no_further_and_later_only_what_is_left(
        self, teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: list[str]
    ) -> None:
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path))
        whole = losses(train_here(recipe, tmp_path / "elsewhere/whole", sets))
        asked, computed = evaluation.outputs, []

        def spy(*arguments: Any) -> Any:
            computed.append(arguments[2])
            preemption.asked.set()
            return asked(*arguments)

        monkeypatch.setattr(teacher_outputs, "AT_ONCE", 25)
        monkeypatch.setattr(evaluation, "outputs", spy)
        monkeypatch.setattr(preemption, "asked", preemption.Flag())
        for _ in range(3):  # 60 texts
            with pytest.raises(PreemptedError, match="its outputs so far are kept"):
                train_here(recipe, tmp_path / "run", sets)
            monkeypatch.setattr(preemption, "asked", preemption.Flag())
        assert computed == [teacher_outputs.ASKING] * 3
        monkeypatch.setattr(evaluation, "outputs", asked)
        monkeypatch.setattr(teacher_outputs, "_model", lambda *_: None)
        assert losses(train_here(recipe, tmp_path / "run", sets)) == pytest.approx(whole, abs=1e-5)
        assert not list((tmp_path / ".bertline-cache").glob("*-part-*"))

    def test_what_another_run_is_about_to_remove_is_asked_again(self, tmp_path: Path) -> None:
        """The other run removes the parts once it has all outputs, possibly just before this run reads one."""
        part, ids = tmp_path / "teacher-a-part-0", np.zeros(3, np.int32)
        window = Encoded(ids, ids, ids, ids, 0, False)
        said: list[Output] = [np.array([1, 2], np.float32), np.array([3, 4], np.float32)]

        def kept(*outputs: Output) -> list[list[float]]:
            """The outputs of a teacher that computes `outputs`, unless the part is cached."""
            forward = teacher_outputs._resumable(lambda _: [*outputs], tmp_path / "teacher-a")
            return [output.tolist() for output in forward([window])]

        part.mkdir()
        assert kept(said[0]) == [[1, 2]]
        files.remove_folder(part)
        assert kept(said[0]) == kept(said[1]) == [[1, 2]]
        files.remove_folder(part)
        assert kept(said[1]) == [[3, 4]]

    def test_a_bundle_may_be_the_teacher(self, teacher: RunFolder, tmp_path: Path) -> None:
        """Its int8 model computes the outputs, text by text; the recipe's `model` is where the student starts."""
        with pytest.MonkeyPatch.context() as patch:
            measure_briefly(patch)
            export(str(teacher.path), tmp_path / "bundle", ExportOptions(2.0, quick=True))
        recipe = write(tmp_path, teacher.path, teacher=str(tmp_path / "bundle"))
        seen: dict[str, Output] = {}
        train_here(recipe, tmp_path / "run", look=teaching(seen))
        bundled = Engine.load(tmp_path / "bundle")
        assert len(seen) == 60
        known = np.array([bundled.logits((text, None)) for text in seen])
        assert known.std(axis=0).min() > 1e-4, "texts are not told apart"
        np.testing.assert_allclose(np.stack([*seen.values()]), known, atol=1e-5)

    def test_a_student_that_was_stopped_goes_on(self, teacher: RunFolder, tmp_path: Path) -> None:
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), student={"layers": [0]})
        whole = losses(train_here(recipe, tmp_path / "whole"))
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe, tmp_path / "run", ["training.save_steps=2"], stop=3)
        resumed = train_here(recipe, tmp_path / "run", ["training.save_steps=2"], resume=True)
        assert losses(resumed) == pytest.approx(whole, abs=1e-6)

    def test_a_teacher_may_read_more_of_a_text(self, teacher: RunFolder, tmp_path: Path) -> None:
        """The student reads windows of 4 tokens, one or more per text; the teacher reads all 32."""
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path))
        seen: dict[str, Output] = {}
        train_here(recipe, tmp_path / "run", ["tokens.max_length=4"], look=teaching(seen))
        whole, cut = (plain_logits(teacher.best, [*seen], length).numpy() for length in (32, 4))
        assert len(seen) == 60
        np.testing.assert_allclose(np.stack([*seen.values()]), whole, atol=1e-5)
        assert np.abs(cut - whole).max() > 1e-4

    @pytest.mark.parametrize("task", ["token-classification", "question-answering"])
    def test_the_other_tasks(self, task: str, tmp_path: Path) -> None:
        base = make_model(tmp_path / "model")
        taught = train_here(write(tmp_path / "a", base, task), tmp_path / "teacher")
        more: Any = {"teacher": str(taught.path), "data": {"unlabelled": str(tmp_path / "b" / "unlabelled.jsonl")}}
        own = train_here(
            write(tmp_path / "b", taught.path, task, **more), tmp_path / "own", ["training.warmup_ratio=1.0"]
        )
        assert losses(own)[0] == pytest.approx(0, abs=1e-6)
        assert runs.read_summary(own.path).data["unlabelled"] == 40
        with pytest.raises(InputError, match="tokenizes texts differently from the student"):
            train_here(write(tmp_path / "c", taught.path, task, **more), tmp_path / "c-run", ["tokens.max_length=24"])

    def test_a_teacher_of_something_else_is_refused(self, teacher: RunFolder, tmp_path: Path) -> None:
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), data={"labels": ["positive", "negative"]})
        with pytest.raises(InputError, match=r"has labels \['negative', 'positive'\]; the student is to learn \['pos"):
            train_here(recipe, tmp_path / "run")
        bare = make_model(tmp_path / "bare", labels=None)
        (tmp_path / "bare" / "config.json").write_text(
            json.dumps(
                {**json.loads((bare / "config.json").read_text()), "id2label": {"0": "negative", "1": "positive"}}
            )
        )
        with pytest.raises(InputError, match=r"only a model that was fine-tuned ForSequenceClassification will do"):
            train_here(write(tmp_path, teacher.path, teacher=str(bare)), tmp_path / "run")
        pairs: Any = {"text_pair": "label"}
        with pytest.raises(InputError, match=r"has inputs \['text'\]; the student is to learn \['text', 'text_pair'\]"):
            train_here(write(tmp_path, teacher.path, teacher=str(teacher.path), data=pairs), tmp_path / "run")

    def test_a_teacher_that_reads_less_has_windows_that_share_less(self, tmp_path: Path) -> None:
        place = make_model(tmp_path / "model", labels=("negative", "positive"))
        recipe = recipes.load(write(tmp_path, place, teacher=str(place)))
        reads = Tokens(max_length=2048, stride=512, long="windows")
        own = recipe.settings(["negative", "positive"]).model_copy(update={"tokens": reads})
        teacher = find(recipe, catalog.make(own), tmp_path)
        tokens = teacher.task.settings.tokens
        assert tokens.max_length == encoder.max_tokens(encoder.check(place)) < 512
        windows = teacher.task.tokenizer(teacher.tokenizer).encode([("good " * 300, None)])
        assert len(windows) > 1

    @pytest.mark.parametrize(("sets", "length"), [("training.seed=7", 32), ("tokens.max_length=8", 8)])
    def test_other_texts_or_lengths_are_asked_anew(
        self, teacher: RunFolder, tmp_path: Path, sets: str, length: int
    ) -> None:
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.best))
        train_here(recipe, tmp_path / "before")
        seen: dict[str, Output] = {}
        train_here(recipe, tmp_path / "after", [sets], look=teaching(seen))
        expected = plain_logits(teacher.best, [*seen], length).numpy()
        np.testing.assert_allclose(np.stack([*seen.values()]), expected, atol=1e-5)

    def test_a_teacher_of_another_problem_is_refused(self, teacher: RunFolder, tmp_path: Path) -> None:
        recipe = recipes.load(write(tmp_path, teacher.path, teacher=str(teacher.path)))
        several = {"problem_type": "multi_label_classification"}
        own = recipe.settings(["negative", "positive"]).model_copy(update=several)
        with pytest.raises(InputError, match="has problem_type 'single_label_classification'; the student"):
            find(recipe, catalog.make(own), tmp_path)

    def test_a_teacher_that_reads_as_much_has_the_same_windows(self, tmp_path: Path) -> None:
        place = make_model(tmp_path / "model", labels=("negative", "positive"))
        recipe = recipes.load(write(tmp_path, place, teacher=str(place)))
        own = recipe.settings(["negative", "positive"]).model_copy(
            update={"tokens": Tokens(max_length=32, stride=16, long="windows")}
        )
        assert find(recipe, catalog.make(own), tmp_path).task.settings.tokens == own.tokens

    def test_outputs_without_names_are_the_students_labels(self, tmp_path: Path) -> None:
        place = make_model(tmp_path / "model", labels=("LABEL_0", "LABEL_1"))
        recipe = recipes.load(write(tmp_path, place, teacher=str(place)))
        own = catalog.make(recipe.settings(["negative", "positive"]))
        assert find(recipe, own, tmp_path).task.settings.labels == ["negative", "positive"]
        three = catalog.make(recipe.settings(["negative", "neutral", "positive"]))
        with pytest.raises(
            InputError, match=r"has labels \['LABEL_0', 'LABEL_1'\]; the student is to learn \['negative"
        ):
            find(recipe, three, tmp_path)

    def test_tags_without_names_are_in_the_order_that_the_recipe_lists(self, tmp_path: Path) -> None:
        """Their indices mean the same in the data."""
        place = encoders.make("bert", tmp_path / "model")
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "num_labels": 5, "id2label": None}))
        path = write(tmp_path, place, "token-classification", teacher=str(place))
        tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
        for listed, fits in (("PER, LOC", True), (", ".join(tags), True), ("O, B-PER, B-LOC, I-PER, I-LOC", False)):
            recipe = recipes.load(path, [f"data.labels=[{listed}]"])
            with nullcontext() if fits else pytest.raises(InputError, match=r"has labels .*'B-LOC', 'I-PER'"):
                find(recipe, catalog.make(recipe.settings(tags)), tmp_path)

    def test_a_run_of_a_regression_may_call_its_output_otherwise(self, teacher: RunFolder, tmp_path: Path) -> None:
        shutil.copytree(teacher.path, tmp_path / "taught")
        summary = RunFolder(tmp_path / "taught").summary
        other = {"problem_type": "regression", "labels": ["stars"]}
        summary.write_text(json.dumps(json.loads(summary.read_bytes()) | other))
        path = write(tmp_path, teacher.path, teacher=str(tmp_path / "taught"), problem_type="regression")
        recipe = recipes.load(path)
        assert find(recipe, catalog.make(recipe.settings(["score"])), tmp_path).task.settings.labels == ["score"]

    def test_the_output_of_a_regression_may_have_any_name(self, tmp_path: Path) -> None:
        place = make_model(tmp_path / "model", labels=("LABEL_0",))
        recipe = recipes.load(write(tmp_path, place, teacher=str(place), problem_type="regression"))
        own = catalog.make(recipe.settings(["score"]))
        assert find(recipe, own, tmp_path).task.settings.labels == ["score"]


@pytest.mark.usefixtures("rank")
class TestRelations:
    def test_a_copy_of_the_teacher_has_nothing_to_learn_of_it(self, teacher: RunFolder, tmp_path: Path) -> None:
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), distillation={"relations": 10.0})
        found = losses(train_here(recipe, tmp_path / "run", ["training.warmup_ratio=1.0"]))
        assert found[0] == pytest.approx(0, abs=1e-5)

    def test_they_come_closer(self, teacher: RunFolder, tmp_path: Path) -> None:
        kept: Any = {"student": {"layers": [0]}, "distillation": {"relations": 1000.0}}
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), **kept)
        found = losses(train_here(recipe, tmp_path / "run", ["training.epochs=6"]))
        assert found[-1] < 0.7 * found[0]

    @pytest.mark.parametrize("size", [1, 16])
    def test_micro_batches_add_up(self, teacher: RunFolder, tmp_path: Path, size: int) -> None:
        kept: Any = {"student": {"layers": [0]}, "distillation": {"relations": 100.0}}
        recipe = write(tmp_path, teacher.path, teacher=str(teacher.path), **kept)
        found = losses(train_here(recipe, tmp_path / "run", [f"training.micro_batch_size={size}"]))
        assert found == pytest.approx(losses(train_here(recipe, tmp_path / "whole")), rel=1e-4)

    def test_the_loss_is_the_divergence_of_relations(self, tmp_path: Path) -> None:
        """With a narrower student, written out head by head and token by token; padding does not count."""
        shape = {"num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 16, "vocab_size": 30}
        models = [BertForSequenceClassification(BertConfig(hidden_size=width, **shape)).eval() for width in (8, 32)]
        ids, mask = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        inputs = {"input_ids": ids, "attention_mask": mask}
        seen: list[list[torch.Tensor]] = []
        for one in models:
            states = one(**inputs, output_hidden_states=True).hidden_states[-2]
            own = one.bert.encoder.layer[-1].attention.self
            seen.append([own.query(states), own.key(states), own.value(states)])
        expected = 0.0
        for student_, teacher_ in zip(*seen, strict=True):
            for window, length in ((0, 4), (1, 2)):
                for head in range(4):
                    parts = [each[window, :length].unflatten(1, (4, -1))[:, head] for each in (student_, teacher_)]
                    products = [part @ part.T / part.shape[1] ** 0.5 for part in parts]
                    expected += sum(divergence(products[1][t], products[0][t]) for t in range(length)) / 4 / 3
        relations = Relations(models[0], models[1], 2.0, "fp32")
        models[0](**inputs)
        found = relations.sum({**inputs})
        assert found.item() == pytest.approx(2 * expected, rel=1e-4)
        found.backward()  # type: ignore[no-untyped-call]
        assert models[0].bert.encoder.layer[-1].attention.self.query.weight.grad is not None
        assert models[1].bert.encoder.layer[-1].attention.self.query.weight.grad is None

    def test_what_cannot_be_compared_is_refused(self, teacher: RunFolder, tmp_path: Path) -> None:
        asked: Any = {"teacher": str(teacher.path), "distillation": {"relations": 1.0}}
        with pytest.raises(InputError, match="tokenizes texts differently from the student; give both the same"):
            train_here(write(tmp_path, teacher.path, **asked), tmp_path / "run", ["tokens.max_length=16"])
        modern = pytorch.load(encoders.make("modernbert", tmp_path / "modern"), "")
        with pytest.raises(InputError, match="models of type modernbert are not supported"):
            Relations(modern, modern, 1.0, "fp32")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"data": {"unlabelled": "rows.jsonl"}}, "data.unlabelled: found 'rows.jsonl'; it needs a teacher: name one"),
        ({"distillation": {"weight": 0.5}}, "distillation: found {'weight': 0.5}; it needs a teacher"),
        ({"student": {"layers": [0, 3]}}, r"student.layers: found \[0, 3\]; name some of 0 to 1, each once, in order"),
        ({"student": {"layers": [1, 0]}}, r"student.layers: found \[1, 0\]; name some of 0 to 1, each once, in order"),
        ({"teacher": "nobody/there.yaml"}, "teacher: nobody/there.yaml: no such model folder"),
    ],
)
def test_faults_of_a_recipe(model: Path, tmp_path: Path, keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        recipes.load(write(tmp_path, model, **keys))
