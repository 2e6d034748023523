"""A bundle in other people's tools: optimum, transformers.pipeline and transformers.js answer as the engine does."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers

from bertline.artifacts import bundle as bundles
from bertline.export.candidates import cascade
from bertline.serve.engine import Engine
from tests import encoders
from tests.e2e.command import Line
from tests.e2e.elsewhere import opened, scores

Bundle = Callable[[str, str], Path]
TOLERANCE = 1e-4
SCRIPTS = Path(__file__).parent / "transformers_js"
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ENETUNREACH", "EHOSTUNREACH", "TIMEDOUT")
"""What npm says where there is no network."""

TEXTS = [
    "number 7: München is a city",
    "Anna works in New York; number 3!",
    "Is Paris it?",
    "number 90: Berlin, Paris and New York",
    "it is, it is, it is",
]
QUESTIONS = [
    ("which city?", "München it is and Berlin has number 12"),
    ("is it number 3?", "New York it is, and number 3, near Paris"),
    ("who?", "the lazy dog works for Siemens in Berlin"),
    ("Paris?", "works near Paris and over New York"),
]
"""Of tokens that the vocabulary has: transformers.js takes unknown ones for special ones, which answer nothing."""
LONG = "Berlin is a city and " * 30
REVIEW = "The best two hours of my year."
"""In the documentation."""


def documented(language: str) -> str:
    """The one piece of code in that language in the documentation of bundles."""
    page = (Path(__file__).parents[2] / "docs/bundle.md").read_text()
    (code,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(code)


def tokens(engine: Engine, text: str, left_out: int | None = None) -> list[tuple[str, Any]]:
    """The label and probability of every token but special ones and those of one id."""
    (window,) = engine.tokenizer.encode([(text, None)])
    (output,) = engine.outputs([window])
    probable = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    own = (window.sequence == 0) & (window.input_ids != left_out)
    return [(engine.task.labels[row.argmax()], pytest.approx(float(row.max()), abs=TOLERANCE)) for row in probable[own]]


def span_probability(engine: Engine, pair: tuple[str, str], span: dict[str, Any]) -> float:
    """The product of the probabilities of its first and last token, among those of the context and the first of all."""
    (window,) = engine.tokenizer.encode([pair])
    (output,) = engine.outputs([window])
    context = np.flatnonzero(window.sequence == 1)
    among = np.exp(output[[0, *context]]).sum(axis=0)
    (first,) = context[window.offsets[context, 0] == span["start"]]
    (last,) = context[window.offsets[context, 1] == span["end"]]
    return float(np.exp(output[first, 0]) / among[0] * np.exp(output[last, 1]) / among[1])


@pytest.mark.parametrize("encoder", ["bert", "electra"])
def test_labels(encoder: str, tiny_bundle: Bundle) -> None:
    """electra's bundle is laid out for Triton, and opens all the same."""
    folder = tiny_bundle(encoder, "text-classification")
    ask, engine = opened(folder, truncation=True), Engine.load(folder)
    for text in [*TEXTS, LONG]:
        (expected,) = engine.predict([(text, None)])
        assert scores(ask(text, top_k=None)) == pytest.approx(expected["scores"], abs=TOLERANCE)
        assert ask(text)[0]["label"] == expected["label"]


def test_several_labels(tiny_bundle: Bundle) -> None:
    folder = tiny_bundle("bert", "multi_label_classification")
    ask, engine = opened(folder), Engine.load(folder)
    for text in TEXTS:
        assert scores(ask(text, top_k=None)) == pytest.approx(
            engine.predict([(text, None)])[0]["scores"], abs=TOLERANCE
        )


def test_a_number(tiny_bundle: Bundle) -> None:
    folder = tiny_bundle("bert", "regression")
    ask, engine = opened(folder), Engine.load(folder)
    for text in TEXTS:
        expected = engine.predict([(text, None)])[0]["value"]
        assert scores(ask(text)) == pytest.approx({"score": expected}, abs=TOLERANCE)


def test_entities(tiny_bundle: Bundle) -> None:
    folder = tiny_bundle("bert", "token-classification")
    engine = Engine.load(folder)
    ask = opened(folder, aggregation_strategy="first")
    found = []
    for text in [*TEXTS, *encoders.TEXTS[:5]]:
        plain = re.sub("[^\\w ]", "", text)  # what is one word where there is a sign in it, is another question
        (answer,) = engine.predict([(plain, None)])
        found += answer["entities"]
        assert [[one[key] for key in ("entity_group", "start", "end", "score")] for one in ask(plain)] == [
            [one["label"], one["start"], one["end"], pytest.approx(one["score"], abs=TOLERANCE)]
            for one in answer["entities"]
        ]
    assert found


def test_tokens(tiny_bundle: Bundle) -> None:
    folder = tiny_bundle("bert", "token-classification")
    ask, engine = opened(folder, ignore_labels=[]), Engine.load(folder)
    for text in TEXTS:
        assert [(one["entity"], one["score"]) for one in ask(text)] == tokens(engine, text)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' way with tensors
def test_answers(tiny_bundle: Bundle) -> None:
    folder = tiny_bundle("bert", "question-answering")
    ask, engine = opened(folder, align_to_words=False, max_answer_len=30), Engine.load(folder)
    for question, context in QUESTIONS:
        best = engine.predict([(question, context)])[0]["n_best"][0]
        found = ask(question=question, context=context)
        assert [found[key] for key in ("answer", "start", "end")] == [best[key] for key in ("answer", "start", "end")]


def test_the_documented_lines_on_real_reviews(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(line.folder)
    said: dict[str, Any] = {}
    exec(documented("python").replace("demo", "reviews"), said)
    engine = Engine.load(line.folder / "bundles/reviews")
    assert scores(said["scores"]) == pytest.approx(engine.predict([(REVIEW, None)])[0]["scores"], abs=TOLERANCE)
    found = said["answer"]("word " * 600, top_k=None)
    assert scores(found) == pytest.approx(engine.predict([("word " * 600, None)])[0]["scores"], abs=TOLERANCE)


@pytest.fixture(scope="module")
def asking(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """A bundle whose model asks one with the opposite logits where it is not sure, and the scores of TEXTS."""
    one = tiny_bundle("bert", "text-classification")
    folder = Path(shutil.copytree(one, tmp_path_factory.mktemp("asking") / "cascade"))
    teacher = onnx.load(one / bundles.MODEL)
    (made,) = (node for node in teacher.graph.node if "logits" in node.output)
    made.output[:] = ["own"]
    teacher.graph.node.append(onnx.helper.make_node("Neg", ["own"], ["logits"]))
    onnx.save(teacher, folder / "teacher.onnx")
    engine = Engine.load(one)
    logits = [engine.outputs(engine.tokenizer.encode([(text, None)]))[0] for text in TEXTS]
    second, third = sorted(float(cascade.sureness(each)) for each in logits)[1:3]
    threshold = (second + third) / 2
    cascade.join(one / bundles.MODEL, folder / "teacher.onnx", threshold, folder / bundles.MODEL)
    signed = [each if cascade.sureness(each) > threshold else -each for each in logits]
    expected = [np.exp(each) / np.exp(each).sum() for each in signed]
    return folder, [dict(zip(engine.task.labels, map(float, row), strict=True)) for row in expected]


def test_a_cascade(asking: tuple[Path, list[dict[str, float]]]) -> None:
    ask = opened(asking[0])
    for text, expected in zip(TEXTS, asking[1], strict=True):
        assert scores(ask(text, top_k=None)) == pytest.approx(expected, abs=TOLERANCE / 10)


@pytest.fixture(scope="module")
def node(pytestconfig: pytest.Config) -> Callable[[str, Any], Any]:
    """Runs a module that takes and gives JSON; the npm packages that it may import stay in pytest's cache folder."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    assert pytestconfig.cache
    folder = pytestconfig.cache.mkdir("transformers_js")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SCRIPTS / name, folder)
    # without scripts: they would fetch what only CUDA needs
    install = ["npm", "install", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip(f"npm reaches no registry: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr

    def run(code: str, given: Any = None) -> Any:
        command = ["node", "--input-type=module", "--eval", code]
        found = subprocess.run(
            command, cwd=folder, input=json.dumps(given), capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return run


@pytest.fixture(scope="module")
def javascript(node: Callable[[str, Any], Any]) -> Callable[[Path, list[list[Any]]], list[Any]]:
    """What transformers.js answers to requests (arguments of a pipeline)."""
    code = (SCRIPTS / "answer.mjs").read_text()

    def answers(folder: Path, requests: list[list[Any]]) -> list[Any]:
        found: list[Any] = node(code, {"bundle": str(folder), "task": bundles.read(folder).task, "requests": requests})
        return found

    return answers


def test_the_documented_lines_in_javascript(line: Line, node: Callable[[str], Any]) -> None:
    code = documented("js").replace("'bundles'", json.dumps(str(line.folder / "bundles"))).replace("demo", "reviews")
    found = scores(node(code + "console.log(JSON.stringify(scores));"))
    expected = Engine.load(line.folder / "bundles/reviews").predict([(REVIEW, None)])[0]["scores"]
    assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("task", ["text-classification", "multi_label_classification"])
def test_labels_in_javascript(task: str, tiny_bundle: Bundle, javascript: Any) -> None:
    folder = tiny_bundle("bert", task)
    engine = Engine.load(folder)
    for text, found in zip(TEXTS, javascript(folder, [[text, {"top_k": None}] for text in TEXTS]), strict=True):
        assert scores(found) == pytest.approx(engine.predict([(text, None)])[0]["scores"], abs=TOLERANCE)


def test_a_cascade_in_javascript(asking: tuple[Path, list[dict[str, float]]], javascript: Any) -> None:
    folder, answers = asking
    for expected, found in zip(answers, javascript(folder, [[text, {"top_k": None}] for text in TEXTS]), strict=True):
        assert scores(found) == pytest.approx(expected, abs=TOLERANCE / 10)


def test_tokens_in_javascript(tiny_bundle: Bundle, javascript: Any) -> None:
    """It leaves out unknown tokens."""
    folder = tiny_bundle("bert", "token-classification")
    unknown = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("[UNK]")
    engine = Engine.load(folder)
    for text, found in zip(TEXTS, javascript(folder, [[text, {"ignore_labels": []}] for text in TEXTS]), strict=True):
        assert [(one["entity"], one["score"]) for one in found] == tokens(engine, text, left_out=unknown)


def test_answers_in_javascript(tiny_bundle: Bundle, javascript: Any) -> None:
    """It gives the tokens as text, without their places."""
    folder = tiny_bundle("bert", "question-answering")
    engine = Engine.load(folder)
    for pair, found in zip(QUESTIONS, javascript(folder, [list(pair) for pair in QUESTIONS]), strict=True):
        best = engine.predict([pair])[0]["n_best"][0]
        assert re.sub(" |##", "", found["answer"]) == re.sub(" ", "", best["answer"].lower()).replace("ü", "u")
        assert found["score"] == pytest.approx(span_probability(engine, pair, best), abs=TOLERANCE)


def test_logits_in_the_runtime_of_browsers(tiny_bundle: Bundle, node: Callable[[str, Any], Any]) -> None:
    """Fused int8 operators included, where the fastest candidate has them."""
    folder = tiny_bundle("bert", "text-classification")
    engine = Engine.load(folder)
    batches = [engine.tokenizer.pad(engine.tokenizer.encode([(text, None)])) for text in TEXTS]
    inputs = [{name: array[0].tolist() for name, array in batch.items()} for batch in batches]
    model = folder / bundles.read(folder).runtime.model
    given = {"model": str(model), "inputs": inputs}
    for text, (found,) in zip(TEXTS, node((SCRIPTS / "webassembly.mjs").read_text(), given), strict=True):
        assert found == pytest.approx(engine.logits((text, None)), abs=TOLERANCE)
