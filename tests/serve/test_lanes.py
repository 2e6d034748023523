"""Lanes: who computes what, on how many cores, and what becomes of texts that are late, unwanted or too many."""

import os
import threading
from collections.abc import Iterator, Sequence
from time import perf_counter

import pytest

from bertline.artifacts.bundle import Packing
from bertline.serve.lanes import Answerer, Computed, Lanes, LateError, Left
from bertline.tasks.tokens import Text


class Recorder:
    """Answers each text with itself once it may go on, and keeps what was asked at once and on how many cores."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], bool]] = []
        self.go = threading.Event()
        self.busy = threading.Semaphore(0)

    def __call__(self, texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        self.calls.append(([text for text, _ in texts], alone))
        self.busy.release()
        assert self.go.wait(10)
        if texts[0][0] == "fails":
            raise ValueError("no")
        return Computed([{"label": text} for text, _ in texts], 0.001, 0.002)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.go.set()


def asked(*texts: str) -> list[Text]:
    return [(text, None) for text in texts]


def test_a_text_alone_has_all_cores_and_texts_that_wait_have_one_each(recorder: Recorder) -> None:
    lanes = Lanes(2)
    (first,) = lanes.submit(asked("first"), Answerer(recorder))
    recorder.busy.acquire(timeout=10)
    others = lanes.submit(asked("second", "third", "fourth"), Answerer(recorder))
    recorder.busy.acquire(timeout=10)
    assert lanes.waiting == 2
    recorder.go.set()
    assert [future.result(10).answer for future in (first, *others)] == [
        {"label": text} for text in ("first", "second", "third", "fourth")
    ]
    lanes.close()
    assert recorder.calls[:2] == [(["first"], True), (["second"], False)]
    assert first.result().queue < 10
    assert first.result()[2:] == (0.001, 0.002)


def test_what_waited_too_long_is_not_computed(recorder: Recorder) -> None:
    lanes = Lanes(1)
    lanes.submit(asked("first"), Answerer(recorder))
    recorder.busy.acquire(timeout=10)
    (late,) = lanes.submit(asked("late"), Answerer(recorder), deadline=perf_counter())
    (punctual,) = lanes.submit(asked("punctual"), Answerer(recorder), deadline=perf_counter() + 60)
    recorder.go.set()
    with pytest.raises(LateError, match="not answered in time"):
        late.result(10)
    assert punctual.result(10).answer == {"label": "punctual"}
    assert ["late"] not in [texts for texts, _ in recorder.calls]


def test_what_nobody_waits_for_is_not_computed(recorder: Recorder) -> None:
    lanes = Lanes(1)
    lanes.submit(asked("first"), Answerer(recorder))
    recorder.busy.acquire(timeout=10)
    gone, wanted = lanes.submit(asked("gone", "wanted"), Answerer(recorder))
    assert gone.cancel()
    assert lanes.waiting == 1
    recorder.go.set()
    wanted.result(10)
    assert [texts for texts, _ in recorder.calls] == [["first"], ["wanted"]]


@pytest.mark.parametrize(
    ("gone", "now", "expected"), [("", 3, 7), ("a", 3, 7), ("a", 11, -1), ("ab", 3, float("-inf"))]
)
def test_what_is_computed_hears_how_long_anybody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, gone: str, now: float, expected: float
) -> None:
    clock = [0.0]
    heard: list[float] = []
    begun, go = threading.Event(), threading.Event()
    monkeypatch.setattr("bertline.serve.lanes.perf_counter", lambda: clock[0])

    def compute(texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        begun.set()
        assert go.wait(60)
        heard.append(left())
        raise LateError

    lanes, packed = Lanes(1), Answerer(compute, Packing(tokens=8, texts=2, gains={}))
    futures = dict(zip("ab", lanes.submit(asked("a", "b"), packed, deadline=10), strict=True))
    assert begun.wait(60)
    assert all(futures[name].cancel() for name in gone)
    clock[0] = now
    go.set()
    lanes.close()
    assert heard == [expected]
    assert all(future.cancelled() or isinstance(future.exception(), LateError) for future in futures.values())


def test_what_nobody_waits_for_is_not_counted_among_what_others_wait_for(recorder: Recorder) -> None:
    lanes = Lanes(1)
    lanes.submit(asked("first"), Answerer(recorder), seconds=[1])
    recorder.busy.acquire(timeout=10)
    futures = lanes.submit(asked(*"abcd"), Answerer(recorder), seconds=[2] * 4)
    assert (lanes.waiting, lanes.backlog, lanes.characters) == (4, 8, 4)
    assert futures[1].cancel()
    assert (lanes.waiting, lanes.backlog, lanes.characters) == (3, 6, 3)
    assert [future.cancel() for future in futures] == [True] * 4  # one of them a second time
    assert (lanes.waiting, lanes.backlog, lanes.characters) == (0, 0, 0)
    recorder.go.set()
    lanes.close()
    assert [texts for texts, _ in recorder.calls] == [["first"]]


def test_a_panic_is_told_and_the_lane_goes_on(recorder: Recorder) -> None:
    """As tokenizers, compiled of Rust, panics: with what is no Exception."""

    class Panic(BaseException):
        pass

    def panics(texts: Sequence[Text], alone: bool, left: Left) -> Computed:
        raise Panic("index out of range")

    recorder.go.set()
    lanes = Lanes(1)
    (failing,) = lanes.submit(asked("fails"), Answerer(panics))
    with pytest.raises(RuntimeError, match="index out of range"):
        failing.result(10)
    (fine,) = lanes.submit(asked("fine"), Answerer(recorder))
    assert fine.result(10).answer == {"label": "fine"}
    assert recorder.calls == [(["fine"], True)]
    lanes.close()


def test_a_failure_is_told_to_who_asked_and_to_nobody_else(recorder: Recorder) -> None:
    recorder.go.set()
    lanes = Lanes(1)
    failing, fine = lanes.submit(asked("fails", "fine"), Answerer(recorder))
    with pytest.raises(ValueError, match="no"):
        failing.result(10)
    assert fine.result(10).answer == {"label": "fine"}


def test_closing_answers_what_was_taken(recorder: Recorder) -> None:
    lanes = Lanes(2)
    futures = lanes.submit(asked(*"abcdef"), Answerer(recorder))
    threading.Timer(0.1, recorder.go.set).start()
    lanes.close()
    assert all(future.done() for future in futures)
    assert lanes.characters == 0
    with pytest.raises(RuntimeError):
        lanes.submit(asked("too late"), Answerer(recorder))


def test_a_fork_which_has_none_of_the_threads_is_told_so(recorder: Recorder) -> None:
    lanes = Lanes(1)
    child = os.fork()
    if child == 0:
        try:
            lanes.submit(asked("never"), Answerer(recorder))
        except RuntimeError as error:
            os._exit(7 if "load it after" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lanes.close()


def test_short_texts_are_packed_and_no_lane_takes_the_share_of_another(recorder: Recorder) -> None:
    lanes, packed = Lanes(2), Answerer(recorder, Packing(tokens=8, texts=4, gains={}))
    lanes.submit(asked("first", "second"), packed)  # one a lane, though both are short
    for _ in range(2):
        recorder.busy.acquire(timeout=10)
    long = "long " * 20
    futures = lanes.submit(asked(*"abcdefgh", long, *"ijk"), packed)
    recorder.go.set()
    assert [future.result(10).answer["label"] for future in futures] == [*"abcdefgh", long, *"ijk"]
    lanes.close()
    packs = [texts for texts, _ in recorder.calls[2:]]
    assert [long] in packs
    assert max(map(len, packs)) == 4
    assert sorted(text for texts in packs for text in texts) == sorted([*"abcdefgh", long, *"ijk"])
