"""The fidelity gates: their texts, their bounds, and the defects that they must catch."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bertline.artifacts.errors import GateError
from bertline.artifacts.task import ProblemType
from bertline.export import sources
from bertline.export.conversion.graphs import Graph
from bertline.export.gates import adversarial, fidelity, tokenization
from bertline.export.gates.fidelity import Asked
from bertline.export.sources import Origin
from bertline.models import transformers_tokens
from bertline.models.pytorch import PyTorchRuntime
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks import catalog
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch, Tokenizer
from tests import encoders
from tests.conftest import classifier


def lengths(texts: list[tuple[str, str | None]]) -> list[int]:
    return [len(text.split()) for text, _ in texts]


@pytest.mark.parametrize("count", [1, 10, 300, 5000])
def test_lengths_are_mixed_however_many_texts_there_are(count: int) -> None:
    texts = [(f"{index} " + "word " * 2000, None) for index in range(count)]
    cuts = fidelity.mixed_lengths(texts)
    assert len(cuts) == 256
    assert all(lengths(cuts).count(words) >= 256 // len(fidelity.WORDS) - 10 for words in fidelity.WORDS)
    assert len({text.split()[0] for text, _ in cuts}) == min(count, 256)


def test_few_texts_are_cut_several_times_each() -> None:
    cuts = fidelity.mixed_lengths([(f"{index} " + "word " * 2000, None) for index in range(29)])
    assert len(set(cuts)) == 256


def test_both_texts_of_a_pair_are_cut() -> None:
    cuts = fidelity.mixed_lengths([("one two three four", "five six seven eight")], 3)
    assert cuts == [
        ("one", "five"),
        ("one two three", "five six seven"),
        ("one two three four", "five six seven eight"),
    ]


def test_long_windows_are_batched_by_the_memory_that_attention_takes() -> None:
    assert list(map(len, fidelity.shuffled([128] * 10))) == [4, 4, 2]
    assert list(map(len, fidelity.shuffled([2048] * 10))) == [4, 4, 2]
    assert list(map(len, fidelity.shuffled([2896] * 5))) == [2, 2, 1]
    lengths = [8192, 300, 2048, 5000, 64, 1] * 4
    batches = fidelity.shuffled(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    sizes = [(len(batch), max(lengths[index] for index in batch)) for batch in batches]
    assert all(count == 1 or count * longest**2 <= fidelity.ATTENTION for count, longest in sizes)
    assert [count for count, longest in sizes if longest == 8192] == [1] * 4


def test_adversarial_texts_are_what_they_are_said_to_be() -> None:
    singles = [text for text, _ in adversarial.texts(paired=False)]
    assert len(set(singles)) == len(singles) >= 20
    assert sorted(map(len, singles))[-2:] == [100_000, 100_000]
    assert {"", "a"} <= set(singles)
    for needed in ("\x00", "\u202e", "שלום", "👩\u200d", "漢", "[SEP]"):
        assert any(needed in text for text in singles), needed
    pairs = adversarial.texts(paired=True)
    assert ("", "") in pairs
    assert {text for text, _ in pairs} >= set(singles) <= {pair for _, pair in pairs}


@pytest.fixture(scope="module")
def origin(run: Path) -> Origin:
    return sources.read(str(run), None)


@pytest.fixture(scope="module")
def asked(origin: Origin) -> Asked:
    return Asked.of(origin)


@pytest.fixture(scope="module")
def pytorch(origin: Origin, asked: Asked) -> list[Output]:
    """What PyTorch gives for what is asked."""
    runtime = PyTorchRuntime(origin.folder, origin.task.architecture, threads=1)
    return asked.engine(runtime).outputs(asked.windows)


def test_a_good_graph_passes(asked: Asked, pytorch: list[Output], fp32: Graph, fused: Graph) -> None:
    for graph in (fp32, fused):
        found = fidelity.hold(asked, pytorch, OnnxRuntime(graph.path, 1))
        assert found.fault is None
        assert found.to_pytorch <= 1e-4
        assert found.by_padding <= 1e-4


def changed(graph: Graph, folder: Path, change: Callable[[onnx.GraphProto], None]) -> OnnxRuntime:
    """The graph after a change."""
    model = onnx.load(graph.path)
    change(model.graph)
    onnx.save(model, folder / "changed.onnx")
    return OnnxRuntime(folder / "changed.onnx", 1)


def ignore_mask(graph: onnx.GraphProto) -> None:
    """Every use of the attention mask is of ones instead: padding is read like words."""
    for node in graph.node:
        node.input[:] = ["all_ones" if name == "attention_mask" else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    graph.node.insert(0, helper.make_node("Sub", ["attention_mask", "attention_mask"], ["all_zeros"]))
    graph.node.insert(1, helper.make_node("Add", ["all_zeros", "one"], ["all_ones"]))


def perturb(graph: onnx.GraphProto) -> None:
    """One column of the encoder's last matrix is a little off."""
    matrix = [one for one in graph.initializer if len(one.dims) == 2 and one.name.startswith("onnx::MatMul")][-1]
    values = numpy_helper.to_array(matrix).copy()
    values[:, 0] += 0.05
    matrix.CopyFrom(numpy_helper.from_array(values, matrix.name))


def test_a_graph_that_ignores_its_mask_is_caught(
    asked: Asked, pytorch: list[Output], fp32: Graph, tmp_path: Path
) -> None:
    found = fidelity.hold(asked, pytorch, changed(fp32, tmp_path, ignore_mask))
    assert found.by_padding > 1e-3 > found.to_pytorch  # alone, nothing is padded
    assert found.fault is not None
    assert found.fault.startswith("gives other logits when texts are padded or batched differently: largest |Δlogit|")


def test_a_weight_that_is_off_is_caught(asked: Asked, pytorch: list[Output], fp32: Graph, tmp_path: Path) -> None:
    found = fidelity.hold(asked, pytorch, changed(fp32, tmp_path, perturb))
    assert found.to_pytorch > 1e-3 > found.by_padding
    assert found.fault is not None
    assert found.fault.startswith("differs from the PyTorch model: largest |Δlogit|")
    assert "on 256 texts and 22 adversarial ones, at text " in found.fault


class Close:
    """Two logits that are all but alike, and that change places in a batch."""

    def __init__(self, by: float) -> None:
        self.by = by

    def run(self, batch: Batch) -> Output:
        rows = len(batch["input_ids"])
        return np.full((rows, 2), [0, self.by if rows == 1 else -self.by], np.float32)


@pytest.mark.parametrize(("by", "caught"), [(4e-4, True), (4e-5, False)])
def test_an_answer_that_a_batch_changes_is_caught_unless_it_was_a_tie(asked: Asked, by: float, caught: bool) -> None:
    alone = asked.engine(Close(by)).outputs(asked.windows)
    fault = fidelity.hold(asked, alone, Close(by)).fault
    assert (fault is not None) == caught
    assert fault is None or fault.startswith(
        "gives other answers when texts are padded or batched differently: text 1 ("
    )


@pytest.mark.parametrize(("wrong", "fault"), [(0.0009, None), (0.002, "0.00"), (-0.002, "0.00"), (np.nan, "nan")])
def test_one_logit_decides(asked: Asked, pytorch: list[Output], fp32: Graph, wrong: float, fault: str | None) -> None:
    other = [output.copy() for output in pytorch]
    other[200][1] += wrong
    found = fidelity.hold(asked, other, OnnxRuntime(fp32.path, 1)).fault
    assert (found is None) == (fault is None)
    assert found is None or re.search(rf"largest \|Δlogit\| {fault}\d* on 256 .* ones, at text 201 \(", found)


class Prices:
    """A price of thousands for each text, by its length, and how far off it is."""

    def __init__(self, labels: int, off: float = 0.0) -> None:
        self.labels, self.off = labels, off

    def run(self, batch: Batch) -> Output:
        lengths = batch["attention_mask"].sum(axis=1, keepdims=True)
        return np.repeat(1000 * (lengths % 3) + self.off, self.labels, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("problem", "off", "caught"),
    [("single_label_classification", 0.5, True), ("regression", 0.5, False), ("regression", 5.0, True)],
)
def test_a_number_has_its_own_unit(asked: Asked, problem: ProblemType, off: float, caught: bool) -> None:
    labels = ["price"] if problem == "regression" else ["cheap", "dear"]
    priced = replace(asked, task=catalog.make(classifier(labels=labels).model_copy(update={"problem_type": problem})))
    pytorch = priced.engine(Prices(len(labels))).outputs(asked.windows)
    fault = fidelity.hold(priced, pytorch, Prices(len(labels), off)).fault
    assert (fault is not None) == caught
    assert fault is None or fault.startswith("differs from the PyTorch model")


def test_tokens_are_those_of_transformers(origin: Origin, asked: Asked) -> None:
    theirs = transformers_tokens.read(origin.folder, origin.task, asked.texts, typed=True)
    tokens = tokenization.gate(asked.tokenizer, asked.texts, asked.read, theirs)
    assert tokens == sum(len(window.input_ids) for window in asked.read) > 3_000
    with pytest.raises(GateError, match=r"^text 278 \('x{40,}.*\), window 1, token 1: bertline reads nothing, transf"):
        tokenization.gate(asked.tokenizer, asked.texts, asked.read[:-1], theirs)
    with pytest.raises(
        GateError, match=r"pads with token 0, transformers with 4; .* here; no bundle was made; please rep"
    ):
        tokenization.gate(asked.tokenizer, asked.texts, asked.read, theirs._replace(pad_id=4))


@pytest.mark.parametrize("kind", encoders.CLASSES)
def test_types_count_only_where_the_model_takes_them(origin: Origin, tmp_path: Path, kind: str) -> None:
    encoders.make_tokenizer(kind).save_pretrained(tmp_path)
    texts = [("who", "Anna in Berlin"), ("a good film", "")]
    tokenizer = origin.task.tokenizer(tmp_path)
    windows = tokenizer.encode(texts)
    theirs = transformers_tokens.read(tmp_path, origin.task, texts, typed=False)
    assert tokenization.gate(tokenizer, texts, windows, theirs) == sum(len(window.input_ids) for window in windows)
    theirs = transformers_tokens.read(tmp_path, origin.task, texts, typed=True)
    with pytest.raises(GateError, match=r"type 1\), transformers .* type 0\)"):
        tokenization.gate(tokenizer, texts, windows, theirs)


def test_a_normalizer_that_transformers_changes_is_caught(origin: Origin, tmp_path: Path) -> None:
    """BertTokenizerFast obeys tokenizer_config.json, whatever tokenizer.json says of capitals."""
    folder = shutil.copytree(origin.folder, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    told = {**settings, "tokenizer_class": "BertTokenizerFast", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    texts = [("a good film", None), ("a Good film", None)]
    tokenizer = origin.task.tokenizer(folder)
    theirs = transformers_tokens.read(folder, origin.task, texts, typed=True)
    with pytest.raises(GateError, match=r"^text 2 \('a Good film'\), window 1, token 3: bertline reads \d+ \('good'"):
        tokenization.gate(tokenizer, texts, tokenizer.encode(texts), theirs)


def test_a_vocabulary_that_differs_in_one_word_is_caught(origin: Origin, tmp_path: Path) -> None:
    folder = shutil.copytree(origin.folder, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    texts = [("fine", None), ("no good", None)]
    tokenizer = Tokenizer(folder, classifier(48).tokens)
    theirs = transformers_tokens.read(origin.folder, origin.task, texts, typed=True)
    with pytest.raises(
        GateError, match=r"^text 2 .*reads \d+ \('good', mask 1, type 0\), transformers \d+ \('bad', mask"
    ):
        tokenization.gate(tokenizer, texts, tokenizer.encode(texts), theirs)


@pytest.mark.parametrize("paired", [False, True])
def test_what_is_no_text_must_be_refused(asked: Asked, paired: bool) -> None:
    tokenization.refusal(asked.tokenizer, adversarial.surrogates(paired))
    with pytest.raises(GateError, match=r"^\('fine', None\) is not valid text, but was not refused"):
        tokenization.refusal(asked.tokenizer, [*adversarial.surrogates(paired), ("fine", None)])
