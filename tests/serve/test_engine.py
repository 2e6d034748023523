"""A bundle answers: order, padding, truncation, golden texts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from time import process_time, sleep

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from bertline.artifacts import bundle, files, machine
from bertline.artifacts.errors import DamagedError, InputError
from bertline.serve.engine import Engine, tolerance
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.tokens import Text


def script_answers(folder: Path, texts: list[Text]) -> np.ndarray:
    """What a straightforward transformers script computes, one text at a time."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [
            model(**tokenizer(*text, truncation=True, max_length=32, return_tensors="pt")).logits[0] for text in texts
        ]
    return torch.stack(rows).softmax(-1).numpy()


def test_answers_equal_a_plain_script(
    tiny_bundle: Path, tiny_classifier: Path, texts: Callable[..., list[dict[str, str]]]
) -> None:
    asked: list[Text] = [(row["text"], None) for row in texts(70, 1)] + [
        ("", None),
        ("good " * 99, None),
        ("a", "pair"),
    ]
    expected = script_answers(tiny_classifier, asked)
    answers = Engine.load(tiny_bundle).predict(asked)
    found = np.array([list(answer["scores"].values()) for answer in answers])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [answer["label"] for answer in answers] == [("negative", "positive")[row.argmax()] for row in expected]
    lengths = [len(AutoTokenizer.from_pretrained(tiny_classifier)(*text)["input_ids"]) for text in asked]
    assert ["truncated" in answer for answer in answers] == [length > 32 for length in lengths]


def test_no_text_is_no_answer(tiny_bundle: Path) -> None:
    assert Engine.load(tiny_bundle).predict([]) == []


def test_half_a_character_is_refused_by_its_place(tiny_bundle: Path) -> None:
    engine = Engine.load(tiny_bundle)
    with pytest.raises(InputError, match=r"^text 2 holds a lone surrogate \(U\+DCFF, character 3\), which is no text"):
        engine.predict([("fine", None), ("caf\udcff", None)])


def test_a_cpu_that_answers_otherwise_is_noticed(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / bundle.MANIFEST).read_text())
    manifest["golden"][0]["logits"][0] += 0.3
    files.write_json(tiny_bundle / bundle.MANIFEST, manifest)
    with pytest.raises(DamagedError, match=r"golden text 0: logits differ by 0\.300"):
        Engine.load(tiny_bundle)


@pytest.mark.parametrize(
    ("off", "expected"),
    [(0.018, nullcontext()), (0.022, pytest.raises(DamagedError, match=r"logits differ by 0\.022"))],
)
def test_golden_logits_may_differ_by_rounding(
    tiny_bundle: Path, off: float, expected: AbstractContextManager[object]
) -> None:
    manifest = json.loads((tiny_bundle / bundle.MANIFEST).read_text())
    manifest["golden"][0]["logits"][0] += off
    files.write_json(tiny_bundle / bundle.MANIFEST, manifest)
    with expected:
        Engine.load(tiny_bundle)


def test_larger_logits_may_differ_by_more() -> None:
    assert tolerance(np.array([-100.0, 100.0])) == pytest.approx(2)
    assert tolerance(np.array([-0.1, 0.1])) == pytest.approx(0.02)


def test_a_model_that_answers_nan_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        OnnxRuntime, "run", lambda _, inputs: np.full((len(inputs["input_ids"]), 2), np.nan, np.float32)
    )
    with pytest.raises(DamagedError, match="nan"):
        Engine.load(tiny_bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a bundle"):
        Engine.load(tmp_path)


def test_a_folder_that_is_missing_or_a_run_is_told_from_others(tmp_path: Path) -> None:
    run = tmp_path / "tickets"
    run.mkdir()
    (run / "run.json").touch()
    with pytest.raises(
        InputError, match=f"{run}: a run, not a bundle; make one of it: bertline export {run} -o BUNDLE"
    ):
        Engine.load(run)
    with pytest.raises(InputError, match=rf"/tikets: no such folder \(did you mean {run}\?\)"):
        Engine.load(tmp_path / "tikets")


def test_a_hub_id_is_told_to_be_downloaded_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    get = "hf download org/name --revision v1 --local-dir name --exclude .gitattributes && rm -r name/.cache"
    with pytest.raises(InputError, match=rf"^org/name@v1: no such folder; .*: {get}$"):
        Engine.load(Path("org/name@v1"))
    (tmp_path / "bundles").mkdir()
    with pytest.raises(InputError, match=r"no such folder$"):
        Engine.load(Path("bundles/name"))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(DamagedError, match="cannot load it"):
        OnnxRuntime(tmp_path / "model.onnx")


@pytest.mark.parametrize(("threads", "streams", "expected"), [(None, 1, 3), (1, 1, 1), (4, 2, 2), (None, 3, 1)])
def test_threads_follow_the_cores_unless_told(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, streams: int, expected: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 3)
    runtime = OnnxRuntime((tiny_bundle / bundle.MODEL).read_bytes(), threads, streams)
    assert runtime._session.get_session_options().intra_op_num_threads == expected


def test_who_has_answered_is_at_rest(tiny_bundle: Path) -> None:
    engine = Engine.load(tiny_bundle, threads=2)
    spent = []
    for _ in range(21):
        engine.predict([("a fine film", None)])
        begun = process_time()
        sleep(0.03)
        spent.append(process_time() - begun)
    assert median(spent) < 0.003  # threads that spin on take that and more after each


def test_nothing_is_written_or_told_beside_the_answers(tiny_bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime, left to itself, keeps in the home folder, and that for temporary files, what it will report."""
    (home := tmp_path / "home").mkdir()
    script = f"from bertline.serve import load\nwith load({str(tiny_bundle)!r}) as model: model.predict(['fine'])"
    own = {"HOME": str(home), "TMPDIR": str(home)}
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run([sys.executable, "-c", script], env=kept | own, check=True, timeout=60)
    assert list(home.iterdir()) == []
