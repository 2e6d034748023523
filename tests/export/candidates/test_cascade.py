"""A cascade: which model answers which text, in the graph and in a served bundle, and which threshold passes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bertline import serve
from bertline.artifacts import bundle as bundles
from bertline.artifacts import files
from bertline.artifacts.errors import DamagedError, GateError
from bertline.artifacts.graph import THRESHOLD, check
from bertline.artifacts.run import RunFolder, read_summary
from bertline.artifacts.task import Tokens
from bertline.bench import compare, systems
from bertline.bench.worker import Worker
from bertline.export.candidates import cascade
from bertline.export.conversion import convert
from bertline.export.conversion.graphs import Graph
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.teacher import Teacher
from bertline.serve.http.limits import Limits
from bertline.serve.http.metrics import Metrics
from bertline.serve.http.shelf import Shelf
from bertline.serve.lanes import Lanes
from bertline.serve.runtimes import OnnxRuntime, Tally
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch, Tokenizer
from tests.conftest import classifier, make_model, make_texts
from tests.export.conftest import LABELS, measure_briefly, train


@pytest.fixture(scope="session")
def beginner(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model with one layer that has hardly learned, held to the same examples."""
    folder = RunFolder(Path(shutil.copytree(run, tmp_path_factory.mktemp("runs") / "beginner")))
    shutil.rmtree(folder.best)
    make_model(folder.best, LABELS, layers=1)
    train(folder.best, steps=6)
    summary = read_summary(folder.path).model_copy(update={"files": files.listing(folder.best)})
    files.write_json(folder.summary, summary.model_dump(mode="json"))
    return folder.path


@pytest.fixture(scope="session")
def student(beginner: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return Graph("fp32", convert.to_onnx(beginner / "best", classifier(48), tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="session")
def batch(run: Path) -> Batch:
    tokenizer = Tokenizer(run / "best", Tokens(max_length=48))
    return tokenizer.pad(tokenizer.encode([(row["text"], None) for row in make_texts(32, seed=5)]))


@pytest.fixture(scope="session")
def middle(student: Graph, batch: Batch) -> float:
    """A threshold that half of the texts reach."""
    return float(np.median([cascade.sureness(one) for one in OnnxRuntime(student.path, 1).run(batch)]))


@pytest.mark.parametrize("name", ["fp32", "fp32-fused", "int8-signed", "int8-unsigned-fused", "int8-static-minmax"])
def test_each_text_is_answered_by_who_should(
    name: str, quantized: dict[str, Graph], student: Graph, batch: Batch, middle: float, tmp_path: Path
) -> None:
    path = tmp_path / "both.onnx"
    cascade.join(student.path, quantized[name].path, middle, path)
    onnx.checker.check_model(path, full_check=name == "fp32")
    check(path.read_bytes(), "text-classification", [])
    both, own = OnnxRuntime(path, 1), OnnxRuntime(student.path, 1)
    larger = OnnxRuntime(quantized[name].path, 1)
    both.tally = Tally()
    sure = np.array([cascade.sureness(one) for one in own.run(batch)]) >= middle
    assert 0 < sure.sum() < len(sure)
    expected = np.where(sure[:, None], own.run(batch), larger.run(batch))
    np.testing.assert_allclose(both.run(batch), expected, atol=1e-5)
    assert (both.tally.texts, both.tally.asked) == (len(sure), (~sure).sum())
    np.testing.assert_allclose(both.run(batch, threshold=0.0), own.run(batch), atol=1e-5)
    np.testing.assert_allclose(both.run(batch, threshold=2.0), larger.run(batch), atol=1e-5)
    for row in range(4):  # alone, as engines compute
        one = {key: array[row : row + 1, : batch["attention_mask"][row].sum()] for key, array in batch.items()}
        alone = own if sure[row] else larger
        np.testing.assert_allclose(both.run(one), alone.run(one), atol=1e-5)


def test_weights_that_both_have_stand_there_once(fp32: Graph, tmp_path: Path) -> None:
    path = tmp_path / "both.onnx"
    cascade.join(fp32.path, fp32.path, 0.9, path)
    model = onnx.load(path)
    (branch,) = (each.g for node in model.graph.node for each in node.attribute if each.name == "then_branch")
    assert sum(one.ByteSize() for one in branch.initializer) == 0
    assert len(branch.node) > 100


def logits(probability: float, label: int) -> Output:
    """Logits of two labels, of which `label` has this probability."""
    found = np.zeros(2, np.float32)
    found[label] = np.log(probability / (1 - probability))
    return found


def test_the_lowest_threshold_that_passes() -> None:
    """The student is wrong where it is least sure, of six texts in twenty."""
    student = [logits(0.5 + 0.02 * (n + 1), 0 if n < 6 else 1) for n in range(20)]
    larger = [logits(0.99, 1)] * 20
    right = [20, 17]

    def passes(outputs: list[Output]) -> bool:
        return sum(int(one.argmax()) for one in outputs) >= right[0]

    found = cascade.lowest(student, larger, passes)
    assert found is not None
    assert found.share == 0.3
    assert 0.5 + 0.02 * 6 < found.threshold <= 0.5 + 0.02 * 7 + 1e-6
    right.pop(0)
    assert (again := cascade.lowest(student, larger, passes)) is not None
    assert again.share == 0.15
    assert cascade.lowest(student, student, lambda outputs: False) is None


@pytest.fixture(scope="session")
def teacher(run: Path, bundle: tuple[Path, dict[str, Any], list[str]]) -> Teacher:
    """The teacher of all students here."""
    return Teacher(str(run), bundle[0])


@pytest.fixture(scope="session")
def sealed(
    teacher: Teacher, beginner: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any], list[str]]]:
    """The bundle of a cascade, the JSON that was answered, and what was said."""
    folder = tmp_path_factory.mktemp("bundles") / "cascade"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        patch.setattr(cascade, "SHARES", tuple(n / 20 for n in range(1, 20)))
        options = ExportOptions(0.05, quick=True)
        found = export(str(beginner), folder, options, say=said.append, teacher=teacher)
        yield folder, found, said


def test_a_student_that_is_not_right_alone_asks_its_teacher(
    sealed: tuple[Path, dict[str, Any], list[str]], run: Path, beginner: Path, teacher: Teacher
) -> None:
    folder, answer, said = sealed
    manifest = bundles.verify(folder)
    told = manifest.cascade
    assert told is not None
    assert 0 < told.share < 1
    assert answer["chosen"] == f"{told.student}-cascade"
    assert answer["cascade"] == told.model_dump()
    tried = {one.name: one for one in manifest.candidates}
    assert tried[told.student].why == "not scored: the student is known not to pass alone"
    assert manifest.drop <= 0.05
    assert teacher.comparisons == {str(beginner): {answer["chosen"]: 1}}
    assert told.source is not None
    assert (folder / told.source.place).resolve() == run.resolve()
    assert f"{told.larger}: answering" in " ".join(said)
    assert any("milliseconds are weighted by that share" in notice for notice in manifest.notices)
    assert all(f"a cascade: {told.larger} of " in (folder / name).read_text() for name in ("README.md", "report.html"))
    assert manifest.packing is None


def test_both_models_answer_golden_texts(sealed: tuple[Path, dict[str, Any], list[str]]) -> None:
    """Otherwise nothing would be noticed on a CPU that computes one of them wrongly."""
    manifest = bundles.verify(sealed[0])
    model, tokenizer = OnnxRuntime(sealed[0] / manifest.runtime.model), Tokenizer(sealed[0], manifest.tokens)
    model.tally = Tally()
    for one in manifest.golden:
        model.run(tokenizer.pad(tokenizer.encode([(one.text, one.text_pair)])))
    assert (model.tally.texts, model.tally.asked) == (6, 3)


def test_a_server_counts_who_answered(sealed: tuple[Path, dict[str, Any], list[str]]) -> None:
    lanes = Lanes(2)
    shelf = Shelf([sealed[0]], lanes, Limits())
    shelf.first.model.predict([row["text"] for row in make_texts(60, seed=9)])
    lanes.close()
    (family,) = (one for one in Metrics(shelf).collect() if one.name == "bertline_cascade_texts")
    found = {sample.labels["by"]: sample.value for sample in family.samples}
    assert {sample.labels["bundle"] for sample in family.samples} == {"cascade"}
    assert set(found) == {"student", "larger"}
    assert all(found.values())
    assert sum(found.values()) == 60


def test_bench_times_both_ways(sealed: tuple[Path, dict[str, Any], list[str]], run: Path) -> None:
    folder = sealed[0]
    manifest = bundles.read(folder)
    system = systems.from_bundle(folder, manifest)
    assert manifest.cascade is not None
    assert system.share == manifest.cascade.share
    with Worker(system, threads=1) as worker:
        texts = [(row["text"], None) for row in make_texts(20)]
        (points,) = compare.time([worker], texts, [(1, 16), (4, 16)], rounds=1)
    assert [(point.batch, point.length) for point in points] == [(1, 16), (4, 16)]
    assert all(0 < point.p50_ms <= point.p90_ms <= point.p99_ms for point in points)


def test_percentiles_of_a_mixture() -> None:
    point = compare.mixed(1, 16, 0.05, alone=[0.001] * 10, asked=[0.011] * 3)
    assert point.p50_ms == pytest.approx(1.5)  # 0.95 · 1 + 0.05 · 11
    assert [point.p90_ms, point.p99_ms] == pytest.approx([1.5, 11])
    assert point.repetitions == 3
    assert point.texts_per_second == pytest.approx(1 / 0.0015)
    assert compare.mixed(2, 16, 0.5, [0.001], [0.005]).p50_ms == pytest.approx(4)  # three batches of four ask


def test_a_manifest_that_calls_another_model_a_cascade_is_refused(
    bundle: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle[0], tmp_path / "tiny"))
    told = bundles.Cascade(threshold=0.9, share=0.1, student="a", larger="b")
    manifest = bundles.read(folder).model_copy(update={"cascade": told})
    files.write_json(folder / bundles.MANIFEST, manifest.model_dump(mode="json"))
    with pytest.raises(DamagedError, match=r"golden text 0: .*asked"):
        serve.load(folder)


def test_no_cascade_that_does_not_pass(
    sealed: tuple[Path, dict[str, Any], list[str]],
    teacher: Teacher,
    beginner: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure_briefly(monkeypatch)
    monkeypatch.setattr(cascade, "SHARES", (0.01,))
    said: list[str] = []
    with pytest.raises(GateError, match="no candidate is shown to lose at most"):
        export(str(beginner), tmp_path / "b", ExportOptions(0.05, quick=True), say=said.append, teacher=teacher)
    assert set(teacher.outputs) == {Path(teacher.run) / "best", teacher.graph().path}  # type: ignore[union-attr]
    assert any(line.startswith("pytorch: answering") for line in sealed[2])
    assert not any(line.startswith("pytorch: answering") for line in said), "it is known what the teacher answers"


def test_the_threshold_is_an_input_with_a_default(fp32: Graph, tmp_path: Path) -> None:
    path = tmp_path / "both.onnx"
    cascade.join(fp32.path, fp32.path, 0.75, path)
    (default,) = (one for one in onnx.load(path).graph.initializer if one.name == THRESHOLD)
    assert onnx.numpy_helper.to_array(default) == 0.75


def test_no_threshold_below_one_that_fails_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "SHARES", (0.2, 0.4, 0.6))
    student = [logits(0.52 + 0.02 * number, 1) for number in range(20)]
    verdicts = iter([True, False, *[True] * 20])
    found = cascade.lowest(student, student, lambda outputs: next(verdicts))
    assert found is not None
    assert found.share == 0.6
