"""The contest: who is scored, in which order, and the notices, with fake workers; and what happens if no candidate
passes, on a model that int8 breaks in one layer.
"""

import errno
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from bertline.artifacts import bundle as bundles
from bertline.artifacts import files
from bertline.artifacts.errors import BertlineError, GateError, InputError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.export import contest, sources, systems
from bertline.export.candidates import quantize, sensitivity
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import PLANS, Plan, dynamic
from bertline.export.contest import Contest, ContestResult, remedies
from bertline.export.conversion.graphs import Graph
from bertline.export.examples import ask, check_examples
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.sources import Origin
from bertline.export.teacher import Teacher
from bertline.tasks.task import Example
from bertline.tasks.tokens import Encoded, Text, Tokenizer
from tests.conftest import classifier
from tests.export.conftest import measure_briefly

LOUD = 3000.0
"""How much larger one channel of the last layer is made, and the weights that read it smaller: int8, with a scale for
all channels, then sees no other."""


FIGURES = {
    "pytorch": (9.0, 0), "fp32": (4.0, 0), "fp32-openvino": (3.0, 0),
    "int8-signed": (1.0, 60), "int8-unsigned": (2.0, 0), "int8-static-minmax": (3.0, 1),
}  # fmt: skip
"""Milliseconds of each, and how many texts it answers wrongly."""
CONTENDING = [plan for plan in PLANS if plan.name in FIGURES]
DYING: dict[str, str] = {}
"""The question at which a system's process ends."""

Hold = Callable[..., tuple[ContestResult, list[str]]]


class Bench(CandidateBuilder):
    """A builder whose graphs are as many bytes as they take microseconds; what `broken` says cannot be made."""

    asked: Graph | None = None

    def __init__(self, folder: Path, broken: Callable[[Plan], None]) -> None:
        self._folder, self._broken = folder, broken

    def make(self, plan: Plan) -> Graph:
        self._broken(plan)
        path = self._folder / f"{plan.name}.onnx"
        path.write_bytes(bytes(round(1000 * FIGURES[plan.name][0])))
        return Graph(plan.name, path, plan.runtime)


class Fake(Worker):
    """A worker without a process, of the figures that are said."""

    def __init__(self, origin: Origin, system: System, threads: int) -> None:
        self.origin, self.system, self.failed = origin, system, False
        self._process: Any = SimpleNamespace(join=lambda: None, exitcode=-signal.SIGKILL)

    def close(self) -> None:
        pass

    def _later(self, name: str, *arguments: Any) -> Callable[[], Any]:
        if DYING.get(self.system.name) == name and arguments[0] != self.origin.texts[:1]:  # not as it is made
            raise self._ended()
        milliseconds, lost = FIGURES[self.system.name]
        if name == "outputs":
            right = [self.origin.settings.labels.index(example.gold) for example in self.origin.examples]
            given = [1 - label if place < lost else label for place, label in enumerate(right)]
            return lambda: list(np.eye(2, dtype=np.float32)[given[: len(arguments[0])]])
        return lambda: {"prepare": None, "load": 0.0, "time": [[milliseconds / 1000]]}[name]


@pytest.fixture
def hold(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Holds a contest with options; returns its result, and the names of the systems that answered, in order."""
    origin = sources.read(str(run), None)
    worker = partial(Fake, origin)
    monkeypatch.setattr(contest, "Worker", worker)

    def held(
        options: ExportOptions,
        broken: Callable[[Plan], None] = lambda plan: None,
        said: list[str] | None = None,
        teacher: Teacher | None = None,
    ) -> tuple[ContestResult, list[str]]:
        said = [] if said is None else said
        reference, bench = worker(systems.pytorch(origin), 1), Bench(tmp_path, broken)
        if teacher is not None and teacher.asked is not None:
            bench.asked = Graph("larger", teacher.asked)
        answered = ask(reference, origin.texts, {} if teacher is None else teacher.outputs, said.append)
        outcome = Contest(origin, reference, answered, bench, options, said.append, teacher).hold(CONTENDING)
        return outcome, [line.partition(":")[0] for line in said if line.endswith("answering 200 texts")]

    return held


def test_what_is_slower_than_the_right_one_is_not_scored(hold: Hold) -> None:
    outcome, answered = hold(ExportOptions(0.05))
    assert outcome.chosen.plan.name == "int8-unsigned"
    assert answered == ["pytorch", "int8-signed", "int8-unsigned"]
    assert [trial.plan.name for trial in outcome.trials if trial.score] == answered[1:]


def test_the_examples_are_tokenized_once_for_all_candidates(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    encode = Tokenizer.encode

    def counted(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Encoded]:
        read.append(len(texts))
        return encode(tokenizer, texts)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    hold(ExportOptions(0.05, prefer="accuracy"))
    assert read.count(200) == 2, "once for PyTorch, whose tokenizer may be another"


def test_where_accuracy_is_preferred_the_closest_to_pytorch_is_taken_not_the_luckiest(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch and the static candidate answer the same ten texts wrongly, of which int8-unsigned gets four right."""
    for name, lost in {"pytorch": 10, "int8-unsigned": 6, "int8-static-minmax": 10}.items():
        monkeypatch.setitem(FIGURES, name, (FIGURES[name][0], lost))
    outcome, _ = hold(ExportOptions(0.05, prefer="accuracy"))
    assert outcome.chosen.plan.name == "int8-static-minmax"
    assert outcome.chosen.agreement == 1.0
    assert [trial.plan.name for trial in outcome.trials if trial.score] == ["fp32", "int8-static-minmax"]


def test_what_was_ranked_on_the_same_examples_is_held_to_a_stricter_bound(hold: Hold) -> None:
    """Each of three may pass wrongly with a third of 2.5 %; the bound of 200 right answers is Clopper and Pearson's."""
    score = hold(ExportOptions(0.05, prefer="accuracy"))[0].chosen.score
    assert score is not None
    assert score.interval[1] == pytest.approx(1 - (0.025 / 3) ** (1 / 200), abs=1e-3)
    assert [contest.first_comparison(ranked) for ranked in (1, 2, 3, 6, 7, 12)] == [1, 2, 2, 3, 4, 5]


def test_each_candidate_that_is_scored_is_held_to_a_stricter_bound_than_the_one_before(hold: Hold) -> None:
    score = hold(ExportOptions(0.05))[0].chosen.score  # int8-signed was scored before it, and failed
    assert score is not None
    assert score.interval[1] == pytest.approx(1 - (0.025 / 3) ** (1 / 200), abs=1e-3)


def test_one_that_passes_leaves_the_next_no_stricter_bound(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 right answers can show a drop of 0.0183; after a failure, one of 0.0237."""
    for name, lost in {"int8-nncf-openvino": 0, "int8-signed": 0}.items():
        monkeypatch.setitem(FIGURES, name, (FIGURES.get(name, (0.5, 0))[0], lost))
    monkeypatch.setattr(sys.modules[__name__], "CONTENDING", [plan for plan in PLANS if plan.name in FIGURES])
    outcome, _ = hold(ExportOptions(0.02))
    assert outcome.chosen.plan.name == "int8-nncf-openvino"
    assert [trial.plan.name for trial in outcome.others] == ["int8-signed"]


def test_where_accuracy_is_preferred_fp32_is_asked_last_and_what_is_too_large_never(hold: Hold) -> None:
    outcome, answered = hold(ExportOptions(0.05, prefer="accuracy"))
    assert outcome.chosen.plan.name == "int8-unsigned"
    assert answered == ["pytorch", "int8-signed", "int8-unsigned", "int8-static-minmax", "fp32"]
    _, answered = hold(ExportOptions(0.05, prefer="accuracy", max_size=0.0025))
    assert answered == ["pytorch", "int8-signed", "int8-unsigned", "fp32"]


def test_what_is_sealed_beside_may_be_no_larger_either(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIGURES, "int8-signed", (1.0, 0))
    for name in ("int8-unsigned", "int8-static-minmax"):
        monkeypatch.setitem(FIGURES, name, (FIGURES[name][0], 60))
    outcome, _ = hold(ExportOptions(0.05, portable=True))
    assert [trial.plan.name for trial in outcome.others] == ["fp32"]
    with pytest.raises(
        GateError, match=r"^int8-signed does not run on every machine, and .* fp32, .* or leave out --portable$"
    ):
        hold(ExportOptions(0.05, portable=True, max_size=0.0035))


def test_fp32_is_not_sealed_beside_the_chosen_one_where_a_quantized_one_is_right(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "int8-signed", (1.0, 0))
    monkeypatch.setitem(FIGURES, "int8-unsigned", (2.0, 1))
    outcome, _ = hold(ExportOptions(0.05, portable=True, prefer="accuracy", allow_fp32=True))
    assert outcome.chosen.plan.name == "int8-signed"
    assert [trial.plan.name for trial in outcome.others] == ["int8-unsigned"]


def test_a_cascade_is_given_up_where_its_student_alone_is_no_faster_than_what_it_must_beat(hold: Hold) -> None:
    """int8-signed takes 1 ms where PyTorch takes 9; the larger model is never asked."""
    said: list[str] = []
    with pytest.raises(
        GateError, match=r"^int8-signed alone is 9\.0 times as fast as PyTorch, the larger .* 9\.5 times"
    ):
        hold(ExportOptions(0.05), said=said, teacher=Teacher("films", Path("larger.onnx"), to_beat=9.5))
    assert not any(line.startswith(("larger", "int8-signed: answering")) for line in said)


def test_a_student_that_fails_in_fp32_is_given_up_after_its_first_candidate(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, answered = hold(ExportOptions(0.05), teacher=Teacher("films"))
    assert answered == ["pytorch", "int8-signed", "fp32", "int8-unsigned"]
    monkeypatch.setitem(FIGURES, "fp32", (4.0, 60))
    said: list[str] = []
    with pytest.raises(GateError, match=r"no candidate is shown to lose at most 0\.05"):
        hold(ExportOptions(0.05), said=said, teacher=Teacher("films"))
    assert [line.partition(":")[0] for line in said if ": answering" in line] == answered[:-1]


def test_what_is_sealed_beside_a_student_that_passes_is_not_given_up(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two candidates fail, and fp32 would, too, but the student has passed on OpenVINO already."""
    wrong = {"int8-nncf-openvino": 0, "int8-unsigned": 60, "int8-static-minmax": 0, "fp32": 60}
    for name, lost in wrong.items():
        monkeypatch.setitem(FIGURES, name, (FIGURES.get(name, (0.5, 0))[0], lost))
    monkeypatch.setattr(sys.modules[__name__], "CONTENDING", [plan for plan in PLANS if plan.name in FIGURES])
    outcome, _ = hold(ExportOptions(0.05), teacher=Teacher("films"))
    assert outcome.chosen.plan.name == "int8-nncf-openvino"
    assert [trial.plan.name for trial in outcome.others] == ["int8-static-minmax"]


@pytest.mark.parametrize("question", ["time", "outputs"])
def test_a_candidate_whose_process_ends_is_left_out(hold: Hold, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    monkeypatch.setitem(FIGURES, "int8-signed", (1.0, 0))
    monkeypatch.setitem(DYING, "int8-signed", question)
    outcome, _ = hold(ExportOptions(0.05))
    assert outcome.chosen.plan.name == "int8-unsigned"
    assert "int8-signed" not in [trial.plan.name for trial in outcome.trials]
    assert outcome.notices == ["left out: int8-signed: its process ended by SIGKILL (out of memory?)"]


@pytest.mark.parametrize(("name", "question"), [("pytorch", "time"), ("pytorch", "outputs"), ("fp32", "time")])
def test_what_the_others_are_held_to_cannot_be_left_out(
    hold: Hold, monkeypatch: pytest.MonkeyPatch, name: str, question: str
) -> None:
    monkeypatch.setitem(DYING, name, question)
    with pytest.raises(BertlineError, match=f"^{name}: its process ended by SIGKILL"):
        hold(ExportOptions(0.05))


def test_what_cannot_be_made_is_told_where_nothing_is_right(hold: Hold) -> None:
    def broken(plan: Plan) -> None:
        if plan.quantized:
            raise RuntimeError("no such operator")

    said: list[str] = []
    told = "not tried: int8-unsigned: it cannot be made (RuntimeError: no such operator)"
    with pytest.raises(GateError, match=r"no candidate is shown to lose at most 0\.05") as caught:
        hold(ExportOptions(0.05), broken, said)
    assert told in said
    assert told in str(caught.value).splitlines()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_fault_of_a_quantizer(hold: Hold, number: int) -> None:
    def broken(plan: Plan) -> None:
        if plan.quantized:
            raise OSError(number, "full", "model.onnx")

    with pytest.raises(OSError, match="full"):
        hold(ExportOptions(0.05), broken)


def test_examples_are_too_few_where_they_are_whatever_is_answered(run: Path) -> None:
    """For F1 they may be enough if the model finds too much; for accuracy they are not, whatever the answers."""
    origin = sources.read(str(run), None)
    accuracy = replace(origin, metric="accuracy")
    words = r"200 examples cannot show a drop of at most 0\.01, .*: about \d+ would suffice; .* --max-drop 0\.01\d+"
    with pytest.raises(GateError, match=words):
        check_examples(accuracy, ExportOptions(0.01))
    check_examples(accuracy, ExportOptions(0.01, allow_fp32=True))
    check_examples(accuracy, ExportOptions(0.02))
    for metric in ("f1", "macro_f1", "precision"):
        check_examples(replace(origin, metric=metric), ExportOptions(0.01))
    settings = classifier(labels=["score"]).model_copy(update={"problem_type": "regression"})
    examples = [Example("", None, float(number)) for number in range(100)]
    numbers = replace(origin, settings=settings, metric="pearson", examples=examples)
    check_examples(numbers, ExportOptions(0.01))
    with pytest.raises(
        GateError, match=r"29 examples cannot show a drop of at most 0\.01 of the pearson: at least 30 are needed"
    ):
        check_examples(replace(numbers, examples=examples[:29]), ExportOptions(0.01, allow_fp32=True))


@pytest.mark.parametrize(("metric", "label"), [("f1", "negative"), ("recall", "negative"), ("precision", "positive")])
def test_examples_that_show_no_loss_are_refused(run: Path, metric: str, label: str) -> None:
    """What every candidate would pass: nothing is to be found, or nothing can be found wrongly."""
    origin = replace(sources.read(str(run), None), metric=metric)
    alike = [example for example in origin.examples if example.gold == label]
    with pytest.raises(GateError, match=f"100 examples cannot show a loss of {metric}, since no answer to them"):
        check_examples(replace(origin, examples=alike), ExportOptions(0.1))
    check_examples(origin, ExportOptions(0.1))


@pytest.fixture
def broken(run: Path, tmp_path: Path) -> Path:
    """The run, its fp32 model the same function, with one layer whose activations eight bits cannot hold."""
    folder = RunFolder(Path(shutil.copytree(run, tmp_path / "runs/broken")))
    weights = {name: tensor.copy() for name, tensor in load_file(folder.best / "model.safetensors").items()}
    for name in ("weight", "bias"):
        weights[f"bert.encoder.layer.1.output.LayerNorm.{name}"][0] *= LOUD
    weights["bert.pooler.dense.weight"][:, 0] /= LOUD
    save_file(weights, folder.best / "model.safetensors", {"format": "pt"})
    summary = read_summary(folder.path).model_copy(update={"files": files.listing(folder.best)})
    files.write_json(folder.summary, summary.model_dump(mode="json"))
    return folder.path


def test_the_layer_that_int8_breaks_is_left_in_fp32(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    said: list[str] = []
    result = export(str(broken), tmp_path / "bundle", ExportOptions(0.03, quick=True), say=said.append)
    name, _, share = result["chosen"].partition("-mixed-")
    assert share in ("25", "50")  # both are right, and as fast
    assert "none passes: trying candidates that are slower, but lose less" in said
    tried = {one.name: one for one in bundles.verify(tmp_path / "bundle").candidates}
    drop = tried[name].drop
    assert drop is not None
    assert drop > 0.03


def test_lengths_are_timed_one_text_at_a_time_and_as_many_as_are_asked_for(run: Path) -> None:
    origin = sources.read(str(run), None)
    windows = origin.task.tokenizer(origin.tokenizer).encode(origin.texts)
    alone = contest.grid(windows, 1)
    assert {batch for batch, _ in alone} == {1}
    assert contest.grid(windows, 4) == [*alone, *((4, length) for _, length in alone)]


def test_layers_are_ranked_by_what_their_quantization_changes(builder: CandidateBuilder, fp32: Graph) -> None:
    ranked = sensitivity.rank(fp32.path, builder.texts[:4], dynamic(True, False))
    layers = [own[0].split("/attention")[0] for own in ranked]
    assert {"/bert/encoder/layer.0", "/bert/encoder/layer.1"} < set(layers)
    assert [len(own) for own, layer in zip(ranked, layers, strict=True) if "layer" in layer] == [8, 8]


def test_a_node_that_is_not_there_is_an_error(builder: CandidateBuilder, fp32: Graph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nodes to leave in fp32: /nowhere: no node of model\.onnx has that name"):
        quantize.quantize(dynamic(True, False), fp32.path, tmp_path / "out.onnx", [], ["/nowhere"])


def test_remedies_are_other_calibrations_and_layers_in_fp32() -> None:
    static = next(plan for plan in PLANS if plan.name == "int8-static-minmax")
    assert [plan.name for plan in remedies(static)] == [
        "int8-static-entropy",
        "int8-static-percentile",
        "int8-static-minmax-mixed-25",
        "int8-static-minmax-mixed-50",
    ]
    assert [plan.fp32_share for plan in remedies(dynamic(True, True))] == [0.25, 0.5]
    seven = replace(dynamic(True, True), reduce_range=True)
    assert [plan.name for plan in remedies(seven)] == [
        "int8-unsigned-fused", "int8-signed-fused-mixed-25", "int8-signed-fused-mixed-50",
    ]  # fmt: skip


def test_what_is_left_in_fp32_is_a_product_of_floats(builder: CandidateBuilder) -> None:
    plan = remedies(dynamic(True, False))[0]
    nodes = {node.name: node.op_type for node in onnx.load(builder.make(plan).path).graph.node}
    kept = sensitivity.rank(builder.fp32.path, builder.texts, plan)[0]
    assert all(nodes.get(name, nodes.get(f"{name}_MatMul")) in ("MatMul", "Gemm") for name in kept)
    assert "MatMulInteger" in nodes.values()
