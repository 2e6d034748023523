"""`bertline shrink`: a student is distilled, exported and held to its teacher, and used again; what is refused."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
import yaml

from bertline.artifacts import bundle, encoder, files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import GateError, InputError
from bertline.artifacts.recipe_schema import Student
from bertline.artifacts.run import RunFolder
from bertline.export.candidates import cascade
from bertline.export.options import ExportOptions
from bertline.launch import shrink, train
from bertline.launch.devices import Devices
from bertline.launch.shrink import order, results, students
from bertline.launch.shrink.distill import Distillation
from bertline.launch.shrink.exports import Exports
from bertline.launch.shrink.results import Attempt, Tried
from tests.conftest import make_model, make_texts
from tests.export.conftest import measure_briefly
from tests.train.conftest import train_here

HERE = Devices("cpu", {"localhost": ["0"]})
DROP = 0.2
"""What 200 examples can tell of a student that learns in a second."""


@pytest.fixture(scope="module", autouse=True)
def here(rank: None) -> Iterator[None]:
    """Students are trained in this process, which spares them the launcher's ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "start", lambda recipe, _, sets, run, resume: train_here(recipe, run, sets, resume))
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of a model with three layers that has learned its task."""
    folder = tmp_path_factory.mktemp("shrink")
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_texts(1000, seed=1)))
    more = [{"text": row["text"]} for row in make_texts(400, seed=2)]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    recipe = {
        "name": "films", "task": "text-classification", "model": str(make_model(folder / "model", layers=3)),
        "data": {"train": str(folder / "texts.jsonl"), "take": {"train": 700, "validation": 200, "test": 100}},
        "tokens": {"max_length": 48},
        "training": {"epochs": 3, "learning_rate": 2e-3, "batch_size": 32, "precision": "fp32", "dropout": 0.0},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return train_here(folder / "recipe.yaml", folder / "runs" / "films")


def shrunken(
    place: Path, name: str, sets: tuple[str, ...] = (), drop: float = DROP
) -> tuple[dict[str, Any], list[str]]:
    """What is answered and said."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        patch.setattr(shrink, "ExportOptions", partial(ExportOptions, quick=True))
        patch.chdir(place.parents[1])
        found = shrink.shrink(Path("runs/films"), Path("bundles", name), HERE, drop, "more.jsonl", sets, said.append)
    return found, said


@pytest.fixture(scope="module")
def shrunk(teacher: RunFolder) -> dict[str, Any]:
    """What is answered."""
    assert runs.read_summary(teacher.path).validation["accuracy"] > 0.9
    return shrunken(teacher.path, "films-small")[0]


def test_the_smallest_student_that_passes_is_sealed(teacher: RunFolder, shrunk: dict[str, Any]) -> None:
    folder = teacher.path.parents[1]
    assert [one["student"] for one in shrunk["curve"]] == ["1 layer", "1 layer, halved", "2 layers"]
    assert shrunk["curve"][1]["kept"] == {"layers": [0], "attention_heads": 2, "intermediate_size": 32}
    pruned = recipes.read(RunFolder(folder / shrunk["curve"][1]["run"]).recipe)
    assert (pruned.model, pruned.student.layers) == (shrunk["curve"][0]["run"], None)  # it learns on
    cut = recipes.read(RunFolder(folder / shrunk["curve"][0]["run"]).recipe)
    assert (cut.model, cut.teacher, cut.student.layers) == ("runs/films-2-layers", "runs/films", [0])
    largest = recipes.read(RunFolder(folder / cut.model).recipe)
    assert (largest.model, largest.student.layers) == ("runs/films", [0, 2])
    assert [run.training.epochs for run in (largest, cut, pruned)] == [3, 2, 2]
    (passed,) = (one for one in shrunk["curve"] if one["student"] == shrunk["student"])
    assert passed["speedup"] == max(one["speedup"] for one in shrunk["curve"] if one["speedup"] is not None)
    ratios = [shrunk["pytorch_p50_ms"][point] / ms for point, ms in passed["p50_ms"].items()]
    assert passed["speedup"] == pytest.approx(geometric_mean(ratios))
    assert [path.name for path in (folder / "bundles").iterdir()] == ["films-small"]
    manifest = bundle.verify(folder / "bundles" / "films-small")
    assert manifest.teacher is not None
    assert (folder / "bundles" / "films-small" / manifest.teacher.place).resolve() == teacher.path
    baseline = runs.read_summary(teacher.path).validation["accuracy"]
    assert manifest.baseline == pytest.approx(baseline)
    assert manifest.drop == pytest.approx(baseline - manifest.value)
    assert (shrunk["baseline"], shrunk["value"]) == (manifest.baseline, manifest.value)
    assert runs.read_summary(folder / str(passed["run"])).data["unlabelled"] == 400
    assert manifest.source.model == recipes.read(RunFolder(folder / str(passed["run"])).recipe).model
    assert "a student of films: PyTorch's figures are those of the teacher" in manifest.notices
    assert "PyTorch, fp32 (the teacher)" in (folder / "bundles" / "films-small" / "README.md").read_text()


def test_a_finished_student_is_used_again_and_another_refused(
    teacher: RunFolder, shrunk: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(teacher.path.parents[1])
    student = teacher.path.parents[1] / str(shrunk["curve"][0]["run"])
    before = runs.read_summary(student).finished
    with pytest.raises(InputError, match="bundles/films-small exists already"):
        shrunken(teacher.path, "films-small")
    said: list[str] = []
    asked = student.with_name(f"{student.name}.yaml")
    less = {"training.micro_batch_size": 4}  # as is advised where memory runs out
    recipes.save(recipes.with_settings(recipes.read(asked), less), asked)
    assert Distillation(teacher.path, HERE, None, (), said.append).finished(asked) == student
    assert said == [f"{student} is finished already and is used as it is; remove it to train again"]
    assert runs.read_summary(student).finished == before
    with pytest.raises(InputError, match=r"finished run of another recipe: training\.epochs was 3 and is 1; move"):
        shrunken(teacher.path, "other", ("training.epochs=1",))


def test_a_student_of_what_a_run_was_before_is_refused(
    teacher: RunFolder, shrunk: dict[str, Any], tmp_path: Path
) -> None:
    """Finished or not: its recipe is the same."""
    place = shutil.copytree(teacher.path, tmp_path / "films")
    student = RunFolder(
        shutil.copytree(teacher.path.parents[1] / shrunk["curve"][0]["run"], tmp_path / "films-1-layer")
    )
    raw = json.loads((place / "run.json").read_text())
    files.write_json(place / "run.json", raw | {"finished": raw["finished"].replace("20", "21", 1)})
    distillation = Distillation(place, HERE, None, (), print)
    recipe = distillation.recipe(Student(layers=[0]))
    with pytest.raises(InputError, match=r"films-1-layer: begun before \S+films was finished"):
        distillation.finished(recipe)
    student.summary.unlink()
    with pytest.raises(InputError, match=r"films-1-layer: begun before \S+films was finished"):
        distillation.finished(recipe)


def test_a_run_is_shrunk_by_one_process_at_a_time(teacher: RunFolder, shrunk: dict[str, Any]) -> None:
    """A second one would train the same students, and take the bundles of the first for what a kill has left."""
    made = teacher.path.parents[1] / "bundles/.twice.0123abcd"
    made.mkdir()
    with shrink._locked(teacher.path), pytest.raises(InputError, match="runs/films: another process is shrinking it"):
        shrunken(teacher.path, "twice")
    assert made.exists()
    made.rmdir()


def test_what_is_made_so_far_is_no_other_exports_to_remove(tmp_path: Path) -> None:
    made = tmp_path / f"{files.temporary_prefix(tmp_path / 'small')}0123abcd"
    with shrink._at_work(tmp_path / "small"):
        made.mkdir()
        files.remove_left(tmp_path / "small")
        assert made.exists()
    assert list(tmp_path.iterdir()) == []


def test_bench_holds_it_to_its_teacher(teacher: RunFolder, shrunk: dict[str, Any]) -> None:
    from bertline.launch import bench

    folder = teacher.path.parents[1]
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        found = bench.bench(folder / "bundles" / "films-small", (), None, None, lambda line: None)
    by_name = {system["name"]: system for system in found["systems"]}
    assert by_name["pytorch"]["accuracy"] == pytest.approx(runs.read_summary(teacher.path).test["accuracy"])
    assert by_name["pytorch"]["size_bytes"] == (teacher.best / "model.safetensors").stat().st_size


def test_a_student_that_loses_too_much_is_sealed_with_a_larger_one_or_not_at_all(
    teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that begins with nothing and learns nothing: it asks the run itself, or a student that is right alone."""
    measure_briefly(monkeypatch)
    monkeypatch.setattr(shrink, "ExportOptions", partial(ExportOptions, quick=True))
    monkeypatch.setattr(students, "sizes", lambda config: [Student(layers=[0])])
    place = shutil.copytree(teacher.path, tmp_path / "films")
    sets = [f"model={teacher.path.parents[1] / 'model'}", "training.learning_rate=1e-9"]
    monkeypatch.setattr(cascade, "SHARES", (0.01,))
    lost = r"1 layer +value 0\.\d+  drop \+0\.\d+  loses 0\.\d+ in PyTorch already; with .*/films: no candidate .*\n"
    with pytest.raises(GateError, match=lost):
        shrink.shrink(place, tmp_path / "bundle", HERE, DROP, None, sets, print)
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle.*"))
    monkeypatch.setattr(cascade, "SHARES", (0.5, 0.95))
    monkeypatch.setattr(students, "sizes", lambda config: [Student(layers=[0, 2]), Student(layers=[0])])
    halved = students.halved
    monkeypatch.setattr(students, "halved", lambda tried: halved(tried) if tried.student == "1 layer" else None)
    monkeypatch.setattr(results, "speedup", lambda made: float(made["cascade"] is not None))
    recipe = Distillation.recipe

    def as_before(self: Distillation, kept: Student, base: Tried | None = None) -> Path:
        """The recipe of a student: the single layer's has not changed, and those of others let them learn."""
        if kept.layers != [0]:
            return recipe(replace(self, overrides=()), kept, base)
        return recipe(self, kept, base if kept.is_pruned else None)

    monkeypatch.setattr(Distillation, "recipe", as_before)
    found = shrink.shrink(place, tmp_path / "bundle", HERE, DROP, None, sets, print)
    assert 0.4 < found["cascade"]["share"] <= 0.95  # less than was asked for, where texts are alike
    asking, asked, half = found["curve"]
    assert asking["why"].startswith(f"passes: {found['chosen']}, which asks 2 layers about ")
    assert asked["why"] == f"passes: {found['cascade']['larger']}"
    assert half["student"] == "1 layer, halved"
    assert re.match(r"passes: int8-\S+-cascade, which asks 2 layers about ", half["why"])
    assert half["kept"] == {"layers": [0], "attention_heads": 2, "intermediate_size": 32}
    assert (found["student"], found["drop"] <= DROP) == ("1 layer", True)
    told = bundle.verify(tmp_path / "bundle").cascade
    assert told is not None
    assert told.source is not None
    assert (tmp_path / "bundle" / told.source.place).resolve() == tmp_path / "films-2-layers"


def test_a_run_that_went_by_its_loss_is_held_to_its_score(teacher: RunFolder) -> None:
    summary = runs.read_summary(teacher.path)
    assert (summary.metric, summary.held_to) == ("accuracy", "accuracy")
    assert summary.model_copy(update={"metric": "macro_f1"}).held_to == "macro_f1"
    assert summary.model_copy(update={"metric": "loss"}).held_to == "accuracy"


def test_other_examples_than_the_teachers_are_refused(teacher: RunFolder, tmp_path: Path) -> None:
    place = shutil.copytree(teacher.path, tmp_path / "films")
    sets = ["training.seed=7", "training.epochs=1"]
    distillation = Distillation(place, HERE, None, sets, print)
    student = distillation.recipe(Student(layers=[0]))
    assert student.name == "films-1-layer.yaml"
    with pytest.raises(InputError, match="its data has changed"):
        distillation.finished(student)


def test_too_few_examples_are_told_before_a_student_is_made(
    teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of F1 too: by what the teacher answers."""
    measure_briefly(monkeypatch)
    run = RunFolder(shutil.copytree(teacher.path, tmp_path / "films"))
    files.write_json(run.summary, json.loads(run.summary.read_bytes()) | {"metric": "macro_f1"})
    with pytest.raises(
        GateError, match=r"^200 examples cannot show a drop of at most 0\.01, even if every answer stays"
    ):
        shrink.shrink(run.path, tmp_path / "bundle", HERE, 0.01, None, (), print)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".films.lock", "films"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (2, [[0]]),
        (3, [[0, 2], [0]]),
        (6, [[0, 2, 3, 5], [0, 2, 3], [0, 2], [0]]),
        (12, [[0, 2, 3, 5, 6, 8, 9, 11], [0, 2, 3, 5, 6, 8], [0, 2, 3, 5], [0, 2]]),
    ],
)
@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layers"])
def test_sizes(key: str, layers: int, expected: list[list[int]]) -> None:
    assert [kept.layers for kept in students.sizes({"model_type": "bert", key: layers})] == expected


def test_a_model_whose_layers_share_their_weights_is_refused_before_it_answers(
    teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = encoder.check(teacher.best) | {"model_type": "albert"}
    monkeypatch.setattr(encoder, "check", lambda folder: config)
    monkeypatch.setattr(shrink, "check_answers", None)
    with pytest.raises(InputError, match="albert: its layers share their weights"):
        shrink.shrink(teacher.path, tmp_path / "bundle", HERE, DROP, None, (), print)


def test_a_student_learns_from_the_teacher_and_not_by_what_weighs_labels(teacher: RunFolder, tmp_path: Path) -> None:
    recipe = recipes.read(teacher.recipe)
    grid = {"training.label_smoothing": [0.0, 0.1]}  # left over from a search; no student could have these
    weighed = recipes.with_settings(
        recipe, {"training.class_weights": "balanced", "training.label_smoothing": 0.1, "search.grid": grid}
    )
    shutil.copytree(teacher.path, tmp_path / "films")
    recipes.save(weighed, RunFolder(tmp_path / "films").recipe)
    distillation = Distillation(tmp_path / "films", HERE, None, (), print)
    made = recipes.load(distillation.recipe(Student(layers=[0])))
    assert made.training == recipe.training


def test_a_run_may_be_where_one_is(teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempts(_: list[Student], distillation: Distillation, exports: Exports) -> list[Attempt]:
        raise GateError(f"{distillation.place.name}, {exports.place.name}")

    measure_briefly(monkeypatch)
    monkeypatch.chdir(teacher.path)
    monkeypatch.setattr(order, "attempts", attempts)
    with pytest.raises(GateError, match="films, films"):
        shrink.shrink(Path(), tmp_path / "bundle", HERE, DROP, None, (), print)
    assert (teacher.path.parent / ".films.lock").exists()


def test_what_students_keep_is_no_setting(teacher: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--set student\.attention_heads=2: what students keep is chosen here"):
        shrink.shrink(teacher.path, tmp_path / "bundle", HERE, DROP, None, ["student.attention_heads=2"], print)


def test_names() -> None:
    assert students.named(Student(layers=[0])) == "1 layer"
    assert students.named(Student(layers=[0, 3], attention_heads=6, intermediate_size=768)) == "2 layers, halved"
