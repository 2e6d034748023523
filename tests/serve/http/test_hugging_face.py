"""Requests of another shape are told so in plain words."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from bertline.serve.http.hugging_face import Format
from bertline.serve.http.limits import Limits
from bertline.serve.http.refusals import RefusedError

QUESTION = 'an object is expected, {"question": …, "context": …}'


@pytest.mark.parametrize(
    ("task", "inputs", "body", "words"),
    [
        ("text-classification", ["text"], "good", "the body: an object is expected"),
        ("text-classification", ["text"], {"inputs": 3}, "inputs: Input should be a valid string"),
        ("text-classification", ["text"], {"inputs": "good", "parameters": 3}, "parameters: an object is expected"),
        ("text-classification", ["text"], {"inputs": ["good"] * 129}, "inputs: List should have at most 128 items"),
        ("text-classification", ["text", "text_pair"], {"inputs": "good"},
         'inputs: an object is expected, {"text": …, "text_pair": …}'),
        ("question-answering", ["question", "context"], {"inputs": "who?"}, f"inputs: {QUESTION}"),
        ("question-answering", ["question", "context"], {"inputs": ["who?"]}, f"inputs.0: {QUESTION}"),
        ("question-answering", ["question", "context"], {"inputs": {"question": "who?"}}, "inputs.context: Field"),
    ],
)  # fmt: skip
def test_another_shape_is_told_with_what_is_expected(task: str, inputs: list[str], body: Any, words: str) -> None:
    manifest: Any = SimpleNamespace(task=task, inputs=inputs, labels=[])
    with pytest.raises(RefusedError) as raised:
        Format(manifest, Limits()).read(body)
    assert raised.value.status == 422
    assert raised.value.sentence.startswith(words)
    assert "Inputs" not in raised.value.sentence


@pytest.mark.parametrize(
    "parameters",
    [
        huggingface_hub.TextClassificationParameters(top_k=1),
        huggingface_hub.TokenClassificationParameters(),
        huggingface_hub.QuestionAnsweringParameters(),
    ],
    ids=["text-classification", "token-classification", "question-answering"],
)
def test_parameters_that_are_null_are_the_servers_own(request: pytest.FixtureRequest, parameters: Any) -> None:
    """Those of Hugging Face's own classes, which hold every parameter there is."""
    task = request.node.callspec.id
    inputs = ["question", "context"] if task == "question-answering" else ["text"]
    manifest: Any = SimpleNamespace(task=task, inputs=inputs, labels=[])
    given = asdict(parameters)
    assert None in given.values()
    body = {"inputs": dict.fromkeys(inputs, "good") if len(inputs) > 1 else "good", "parameters": given}
    _, asked = Format(manifest, Limits()).read(body)
    assert asked.parameters.model_dump(exclude_unset=True) == {k: v for k, v in given.items() if v is not None}


def test_a_number_is_called_as_the_bundle_calls_it() -> None:
    manifest: Any = SimpleNamespace(task="text-classification", inputs=["text"], labels=["stars"])
    read = Format(manifest, Limits())
    _, asked = read.read({"inputs": "good"})
    assert read.write([{"value": 4.5}], asked) == [[{"label": "stars", "score": 4.5}]]
