"""`bertline.serve.load`: typed answers, from many threads, in memory that stays flat."""

import gc
import json
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any, NoReturn

import pytest

from bertline import serve
from bertline.artifacts import bundle, files, signature
from bertline.artifacts.errors import DamagedError, InputError
from bertline.artifacts.task import Tokens
from bertline.serve import model as models
from bertline.serve.answers import typed
from bertline.serve.engine import Bundle, Engine
from bertline.serve.lanes import Lanes, LateError
from bertline.serve.model import Model, in_time
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Tokenizer
from tests.keys import write_keys


def test_what_is_public() -> None:
    assert set(serve.__all__) == {
        "Classification", "Entities", "Entity", "Model", "MultiLabel", "QuestionAnswer", "Regression", "Span", "load"
    }  # fmt: skip


def test_a_signature_is_demanded_where_a_key_is_given(tiny_bundle: Path, tmp_path: Path) -> None:
    (private, public), (_, other) = (write_keys(tmp_path, name) for name in ("mine", "other"))
    with pytest.raises(DamagedError, match=r"not signed, it has no model\.sig"):
        serve.load(tiny_bundle, public_key=public)
    signature.signer(private)(tiny_bundle)
    with serve.load(tiny_bundle, public_key=str(public)) as model:
        assert model.predict(["good"])
    with pytest.raises(DamagedError, match="no valid signature"):
        serve.load(tiny_bundle, public_key=other)


def test_answers_are_typed_and_in_order(tiny_bundle: Path, texts: Callable[..., list[dict[str, str]]]) -> None:
    asked = [row["text"] for row in texts(60, 1)] + ["good " * 99]
    expected = Engine.load(tiny_bundle).predict([(text, None) for text in asked])
    with serve.load(tiny_bundle, threads=2) as model:
        answers = model.predict(asked)
    for answer, one in zip(answers, expected, strict=True):
        assert isinstance(answer, serve.Classification)
        assert answer.label == one["label"]
        assert answer.scores == pytest.approx(one["scores"], abs=1e-5)
    assert [answer.truncated for answer in answers] == [bool(one.get("truncated")) for one in expected]
    assert answers[-1].truncated


def test_answers_of_other_tasks_are_typed() -> None:
    entity: dict[str, Any] = {"label": "C", "score": 0.5, "start": 0, "end": 6, "text": "Berlin"}
    assert typed({"entities": [entity], "truncated": True}) == serve.Entities([serve.Entity(**entity)], truncated=True)
    span: dict[str, Any] = {"answer": "Berlin", "score": 0.5, "start": 0, "end": 6}
    assert typed({**span, "n_best": [span]}) == serve.QuestionAnswer(**span, n_best=[serve.Span(**span)])
    assert typed({"value": 2.5}) == serve.Regression(2.5)
    assert typed({"labels": ["a"], "scores": {"a": 0.7}}) == serve.MultiLabel(["a"], {"a": 0.7})


def test_many_threads_at_once_get_each_their_own(tiny_bundle: Path) -> None:
    with serve.load(tiny_bundle, threads=2) as model, ThreadPoolExecutor(16) as pool:
        asked = [f"the film number {number} was {'good' if number % 2 else 'bad'}" for number in range(200)]
        alone = model.predict(asked)
        assert list(pool.map(lambda text: model.predict([text])[0], asked)) == alone


def test_an_answer_is_the_same_whoever_waits_beside_it(tiny_bundle: Path) -> None:
    with serve.load(tiny_bundle, threads=2) as model:
        (alone,) = model.predict(["a good film"])
        crowd = model.predict(["a good film", "bad " * 30, "a good film", *["the plot"] * 20])
        assert crowd[0] == crowd[2]
        assert isinstance(alone, serve.Classification)
        assert isinstance(crowd[0], serve.Classification)
        assert crowd[0].score == pytest.approx(alone.score, abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["fine", ("a", "pair")], "text 2 is ('a', 'pair'); a string is expected"),
        (["fine", 3], "text 2 is 3; a string is expected"),
        ("text", "a list of texts is expected, but a string was given"),
        (["half \ud83d"], "text 1: text holds a lone surrogate"),
    ],
)
def test_what_is_no_question_is_told_by_its_place(tiny_bundle: Path, asked: Any, words: str) -> None:
    with serve.load(tiny_bundle, threads=1) as model, pytest.raises(InputError) as raised:
        model.predict(asked)
    assert words in str(raised.value)


def lane_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("lane-")}


def test_leaving_ends_the_threads(tiny_bundle: Path) -> None:
    before = lane_threads()
    with serve.load(tiny_bundle, threads=3) as model:
        model.predict(["a film"] * 4)
        assert len(lane_threads() - before) == 3
    assert not lane_threads() - before
    with pytest.raises(RuntimeError):
        model.predict(["a film"])


def test_what_a_text_takes_is_known_before_the_first_one_asks(tiny_bundle: Path) -> None:
    """Else a server that has just started, or swapped its bundles, would take whatever comes."""
    for threads in (1, 2):
        with serve.load(tiny_bundle, threads=threads) as model:
            assert 0 < model.seconds < 1
            model.prepare()
            forecast = model.seconds
            answered = [one.result() for one in model.submit([("a good film", None)] * 200)]
            assert forecast / 20 < median(one.tokenize + one.run for one in answered) < 20 * forecast


def test_a_tokenizer_that_panics_is_a_fault_of_the_bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panics(*_: object) -> None:
        raise Panic("index out of range")

    monkeypatch.setattr(Tokenizer, "encode", panics)
    with pytest.raises(DamagedError, match="golden text 0: index out of range"):
        serve.load(tiny_bundle, threads=1)


def test_a_text_that_is_read_in_windows_takes_as_long_as_all_of_them(tiny_bundle: Path) -> None:
    long = [("a" * 960, None), ("good", None)]
    with serve.load(tiny_bundle, threads=1) as model:
        model._all_cores.seconds = 0.5  # which is the one engine of a model with one core
        assert model.expected(long) == [0.5, 0.5]
        tokens = Tokens(max_length=32, stride=8, long="windows")
        model.manifest = model.manifest.model_copy(update={"tokens": tokens})
        assert model.expected(long) == [5.5, 0.5]


def test_what_is_expected_makes_up_for_windows_that_characters_do_not_tell(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose characters are a token each has several times as many."""
    with serve.load(tiny_bundle, threads=1) as model:
        actual = Tokenizer.encode
        monkeypatch.setattr(Tokenizer, "encode", lambda self, texts: actual(self, texts) * 4)
        clock = [0.0]

        def decode(*_: object) -> list[Answer]:
            clock[0] += 2.0
            return [{"label": "positive", "score": 1.0, "scores": {}}]

        monkeypatch.setattr(Engine, "decode", decode)
        monkeypatch.setattr(models, "perf_counter", lambda: clock[0])
        model._all_cores.seconds = 0.1
        monkeypatch.setattr(models, "RECENT", 1.0)
        model.predict(["a good film"])
        assert model.expected([("a good film", None)]) == [2.0]


@pytest.mark.parametrize(
    ("took", "limit", "computed"),
    [
        ([1.0] * 20, 20.5, 20),
        ([1.0] * 20, 19.5, 20),  # too late in the end, but not by much
        ([1.0] * 20, 12.0, 5),
        ([1.0] * 4, 1.5, 2),
        ([9.0] + [0.1] * 19, 12.0, 20),  # the machine had something else to do
        ([1.0] * 20, float("-inf"), 0),
        ([1.0] * 2000, float("inf"), 2000),
    ],
)
def test_windows_are_computed_while_they_can_be_in_time(
    monkeypatch: pytest.MonkeyPatch, took: list[float], limit: float, computed: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(models, "perf_counter", lambda: clock[0])
    batches = in_time([[index] for index in range(len(took))], lambda: limit - clock[0], 0.5, 4)
    late = None
    for done in range(computed):
        assert next(batches) == [done]
        clock[0] += took[done]
    try:
        assert next(batches, None) is None
    except LateError as error:
        late = error
    assert (late is None) == (computed == len(took))
    if late is not None:  # on all cores, of which it had a fourth
        assert late.seconds == (0.5 + len(took) / 4 if computed >= models.FEW else 0)
        assert late.done == computed / len(took)


def test_a_text_that_nobody_waits_for_is_computed_no_further(tiny_bundle: Path) -> None:
    with serve.load(tiny_bundle, threads=1) as model, pytest.raises(LateError):
        model._compute([("a good film", None)], True, lambda: 0.0)


def test_what_was_computed_of_a_text_that_is_late_tells_what_texts_take(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a queue of such texts would never be too long."""

    def half(engine: Engine, windows: object, batches: object) -> NoReturn:
        clock[0] += 3.0
        raise LateError(done=0.5)

    with serve.load(tiny_bundle, threads=1) as model:
        clock = [0.0]
        monkeypatch.setattr(Engine, "outputs_of", half)
        monkeypatch.setattr(models, "perf_counter", lambda: clock[0])
        monkeypatch.setattr(models, "RECENT", 1.0)
        with pytest.raises(LateError):
            model._compute([("a good film", None)], True, lambda: 1.0)
        assert model.expected([("a good film", None)]) == [6.0]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_text_takes_with_all_cores_is_no_forecast_for_a_crowd(tiny_bundle: Path, threads: int) -> None:
    with serve.load(tiny_bundle, threads) as model:
        model.prepare()
        assert model._per_core is not None
        model._per_core.seconds = forecast = 60.0
        model.predict(["a good film"])
        assert (model.seconds == forecast) == (threads > 1)
        model.predict(["a good film"] * 20)
        assert model.seconds < forecast


@pytest.mark.parametrize("threads", [1, 2])
def test_a_text_that_takes_long_even_with_all_cores_is_one(tiny_bundle: Path, threads: int) -> None:
    """As long as such texts are: neither the next quick one nor a crowd's are expected to take as long."""
    with serve.load(tiny_bundle, threads) as model:
        model.prepare()
        assert model._per_core is not None
        model._per_core.seconds = model._all_cores.seconds = 0.0
        model.predict(["a good film"])
        assert model.seconds > 0
        model._all_cores.seconds = 60.0
        model.predict(["a good film"])
        assert model.seconds < 60
        model._all_cores.seconds = 60.0
        model._learn(0.0, model._per_core)
        assert model.seconds == model._per_core.seconds


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_that_nobody_holds_goes_at_once(tiny_bundle: Path, threads: int) -> None:
    """Else each swap leaves the memory of two sessions to a collection that a server hardly ever comes to."""
    lanes = Lanes(threads)
    model = Model(Bundle(tiny_bundle), lanes)
    model.predict(["a good film"] * 20)
    (late,) = model.submit([("a good film", None)], deadline=0.0)
    assert isinstance(late.exception(60), LateError)  # and its lane waits for another text
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        begun = monotonic()
        while gone() is not None and monotonic() < begun + 5:  # a lane may be at its last word
            sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()
        lanes.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_that_a_model_was_made_of_are_not_kept(tiny_bundle: Path, threads: int) -> None:
    size = sys.getsizeof((tiny_bundle / bundle.MODEL).read_bytes())
    tracemalloc.start()
    try:
        with serve.load(tiny_bundle, threads) as model:
            model.prepare()
            assert size not in {trace.size for trace in tracemalloc.take_snapshot().traces}
    finally:
        tracemalloc.stop()


def test_a_model_that_cannot_be_made_leaves_no_threads(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / bundle.MANIFEST).read_text())
    manifest["golden"][0]["logits"][0] += 0.3
    files.write_json(tiny_bundle / bundle.MANIFEST, manifest)
    before = lane_threads()
    with pytest.raises(DamagedError):
        serve.load(tiny_bundle, threads=2)
    assert not lane_threads() - before


def test_no_threads_are_refused(tiny_bundle: Path) -> None:
    for threads in (0, -1):
        with pytest.raises(InputError, match=f"threads is {threads}; it must be at least 1"):
            serve.load(tiny_bundle, threads)


def test_memory_stays_flat(tiny_bundle: Path) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    with serve.load(tiny_bundle, threads=2) as model:
        model.predict(["the film was good"] * 1000)
        before = resident()
        for _ in range(10):
            model.predict(["the film was good"] * 1000)
        assert resident() < 1.05 * before
