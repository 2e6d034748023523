"""What is shown of answers, and of a bundle that answers otherwise than it was made to."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bertline.artifacts import bundle, files, machine
from bertline.launch import predict
from bertline.launch.command import main
from tests.serve.conftest import seal


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"label": "positive", "score": 0.98765, "scores": {}}, "positive  0.988"),
        ({"value": 4.5}, "4.500"),
        ({"labels": ["a", "b"], "scores": {"a": 0.9, "b": 0.75, "c": 0.1}}, "a 0.900, b 0.750"),
        ({"labels": [], "scores": {"a": 0.1}}, "no label"),
        ({"entities": [{"text": "Bonn", "label": "LOC", "score": 0.5}]}, "Bonn (LOC 0.500)"),
        ({"entities": []}, "no entities"),
        ({"answer": "Bonn", "score": 0.5}, "Bonn  0.500"),
        ({"answer": "", "score": 0.5}, "no answer  0.500"),
    ],
)
def test_an_answer_in_a_few_words(answer: Any, words: str) -> None:
    assert predict._short(answer) == words


def test_that_another_model_than_the_chosen_one_answers_is_noted(
    tiny_classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = seal(tiny_classifier, tmp_path / "bundle")
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    everywhere = {"candidate": "fp32", "runtime": manifest["runtime"], "golden": [manifest["golden"][0]["logits"]]}
    chosen = manifest["runtime"] | {"cpu_classes": ["arm64"]}
    files.write_json(folder / bundle.MANIFEST, manifest | {"runtime": chosen, "variants": [everywhere]})
    monkeypatch.setattr(machine, "cpu_class", lambda: "avx2")
    done = CliRunner().invoke(main, ["predict", str(folder), "a good film"])
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "note: onnx/model.onnx is not for CPUs of class avx2: fp32 on onnxruntime answers\n"
