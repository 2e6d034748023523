"""Other people's clients, unchanged, against a server with a bundle of each kind: answers are those of `load`."""

import dataclasses
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from tritonclient import http as triton

from bertline.benchmarks.serve.serving import serving
from bertline.serve import Classification, Entities, QuestionAnswer, load
from tests.e2e.tiny import TASKS

pytestmark = pytest.mark.usefixtures("online")
KINDS = (*TASKS, "multi_label_classification", "regression")
TEXT = "number 3: München is a city 😀 and Paris is one"
LONG = "number " * 200
QUESTION, CONTEXT = "which city?", "number 4: 😀 Berlin it is"
KEY = "a-key-of-ours"


@pytest.fixture(scope="module")
def bundles(tiny_bundle: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, in folders of its name."""
    folder = tmp_path_factory.mktemp("served")
    return {kind: Path(shutil.copytree(tiny_bundle("bert", kind), folder / kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def url(bundles: dict[str, Path]) -> Iterator[str]:
    """Of a server that has them all, and asks for a key."""
    keys = bundles["regression"].with_name("keys")
    keys.write_text(f"another\n{KEY}\n")
    with serving(*bundles.values(), "--api-keys", keys) as server:
        yield server.url
        log = server.log.read_text()
    assert not [word for word in ("München", "Berlin", KEY, "Traceback") if word in log]


def client(url: str, kind: str, key: str = KEY) -> InferenceClient:
    return InferenceClient(model=f"{url}/models/{kind}", token=key)


def post(url: str, kind: str, body: Any, path: str = "models/{}") -> Any:
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{url}/{path.format(kind)}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def expected(bundles: dict[str, Path], kind: str, asked: list[Any]) -> list[Any]:
    with load(bundles[kind]) as model:
        return model.predict(asked)


def test_hugging_face_classifies_a_text(url: str, bundles: dict[str, Path]) -> None:
    (answer,) = expected(bundles, "text-classification", [TEXT])
    assert isinstance(answer, Classification)
    found = client(url, "text-classification").text_classification(TEXT)
    assert {one.label: one.score for one in found} == pytest.approx(answer.scores, abs=1e-4)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    best = client(url, "text-classification").text_classification(TEXT, top_k=1)
    assert [one.label for one in best] == [answer.label]
    assert client(url, "text-classification").text_classification(LONG)[0]["truncated"] is True


def test_hugging_face_finds_entities(url: str, bundles: dict[str, Path]) -> None:
    (answer,) = expected(bundles, "token-classification", [TEXT])
    assert isinstance(answer, Entities)
    assert answer.entities
    found = client(url, "token-classification").token_classification(TEXT, aggregation_strategy="simple")
    assert [(one.entity_group, one.start, one.end, one.word) for one in found] == [
        (one.label, one.start, one.end, one.text) for one in answer.entities
    ]
    assert all(TEXT[one.start : one.end] == one.word for one in found if one.start is not None)


def test_hugging_face_answers_a_question(url: str, bundles: dict[str, Path]) -> None:
    (answer,) = expected(bundles, "question-answering", [(QUESTION, CONTEXT)])
    assert isinstance(answer, QuestionAnswer)
    found: Any = client(url, "question-answering").question_answering(question=QUESTION, context=CONTEXT)
    assert (found.answer, found.start, found.end) == (answer.answer, answer.start, answer.end)
    several: Any = client(url, "question-answering").question_answering(question=QUESTION, context=CONTEXT, top_k=3)
    assert [one.answer for one in several] == [one.answer for one in answer.n_best[:3]]


def test_a_wrong_key_is_refused(url: str) -> None:
    with pytest.raises(HfHubHTTPError) as raised:
        client(url, "text-classification", "no-key-of-ours").text_classification(TEXT)
    assert raised.value.response is not None
    assert raised.value.response.status_code == 401
    assert raised.value.response.headers["www-authenticate"] == "Bearer"


def test_a_list_is_answered_with_a_list(url: str, bundles: dict[str, Path]) -> None:
    found = post(url, "text-classification", {"inputs": [TEXT, "Paris"]})
    answers = expected(bundles, "text-classification", [TEXT, "Paris"])
    assert [labels[0]["label"] for labels in found] == [answer.label for answer in answers]
    pair = {"question": QUESTION, "context": CONTEXT}
    assert len(post(url, "question-answering", {"inputs": [pair, pair]})) == 2
    assert len(post(url, "token-classification", {"inputs": [TEXT, TEXT]})) == 2


def test_numbers_and_several_labels(url: str, bundles: dict[str, Path]) -> None:
    (number,) = expected(bundles, "regression", [TEXT])
    assert post(url, "regression", {"inputs": TEXT}) == [
        [{"label": "score", "score": pytest.approx(number.value, abs=1e-4)}]
    ]
    (answer,) = expected(bundles, "multi_label_classification", [TEXT])
    found = post(url, "multi_label_classification", {"inputs": TEXT})[0]
    assert {one["label"]: one["score"] for one in found} == pytest.approx(answer.scores, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "parameters", "named"),
    [
        ("text-classification", {"function_to_apply": "sigmoid"}, "function_to_apply"),
        ("token-classification", {"aggregation_strategy": "none"}, "aggregation_strategy"),
        ("question-answering", {"max_seq_len": 384}, "max_seq_len"),
        ("question-answering", {"top_k": 6}, "top_k"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(url: str, kind: str, parameters: Any, named: str) -> None:
    inputs: Any = {"question": QUESTION, "context": CONTEXT} if kind == "question-answering" else TEXT
    with pytest.raises(urllib.error.HTTPError) as raised:
        post(url, kind, {"inputs": inputs, "parameters": parameters})
    with raised.value as refused:
        assert refused.code == 422
        assert named in json.load(refused)["error"]


@pytest.fixture
def tritons(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url.removeprefix("http://")) as made:
        yield made


def key() -> dict[str, str]:
    """Anew for each request, since tritonclient adds its own to what it is given."""
    return {"Authorization": f"Bearer {KEY}"}


def tensor(name: str, texts: list[str], binary: bool) -> Any:
    made = triton.InferInput(name, [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array(texts, np.object_), binary_data=binary)
    return made


def strings(array: Any) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else one for one in array.ravel()]


def test_triton_is_told_of_server_and_models(tritons: triton.InferenceServerClient) -> None:
    assert tritons.is_server_live()
    assert tritons.is_server_ready()
    assert tritons.is_model_ready("question-answering", headers=key())
    assert not tritons.is_model_ready("nothing", headers=key())
    (version,) = tritons.get_model_metadata("regression", headers=key())["versions"]
    assert tritons.is_model_ready("regression", version, headers=key())
    assert not tritons.is_model_ready("regression", "another", headers=key())
    assert tritons.get_server_metadata(headers=key())["name"] == "bertline"
    told = tritons.get_model_metadata("question-answering", headers=key())
    assert [one["name"] for one in told["inputs"]] == ["question", "context"]
    assert {one["datatype"] for one in told["inputs"]} == {"BYTES"}


@pytest.mark.parametrize("binary", [True, False])
def test_triton_classifies(tritons: triton.InferenceServerClient, bundles: dict[str, Path], binary: bool) -> None:
    texts = [TEXT, LONG, ""]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "score", "truncated")]
    for outputs in (None, [], wanted):
        found = tritons.infer(
            "text-classification", [tensor("text", texts, binary)], request_id="seven", outputs=outputs, headers=key()
        )
        answers = expected(bundles, "text-classification", texts)
        assert found.get_response()["id"] == "seven"
        assert strings(found.as_numpy("label")) == [answer.label for answer in answers]
        np.testing.assert_allclose(found.as_numpy("score"), [answer.score for answer in answers], atol=1e-4)
        assert found.as_numpy("truncated").tolist() == [answer.truncated for answer in answers]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_answers_questions(
    tritons: triton.InferenceServerClient, bundles: dict[str, Path], binary: bool
) -> None:
    contexts = [CONTEXT, "Paris"]
    given = [tensor("question", [QUESTION] * 2, binary), tensor("context", contexts, binary)]
    found = tritons.infer("question-answering", given, headers=key())
    answers = expected(bundles, "question-answering", [(QUESTION, context) for context in contexts])
    assert strings(found.as_numpy("label")) == [answer.answer for answer in answers]
    assert found.as_numpy("start").tolist() == [answer.start for answer in answers]
    assert found.as_numpy("text").tolist() == [0, 1]


def test_triton_finds_entities(tritons: triton.InferenceServerClient, bundles: dict[str, Path]) -> None:
    texts = [TEXT, "Berlin", ""]
    found = tritons.infer("token-classification", [tensor("text", texts, True)], headers=key())
    answers = expected(bundles, "token-classification", texts)
    places = [(index, one) for index, answer in enumerate(answers) for one in answer.entities]
    assert places
    assert found.as_numpy("text").tolist() == [index for index, _ in places]
    assert strings(found.as_numpy("label")) == [one.label for _, one in places]
    assert found.as_numpy("end").tolist() == [one.end for _, one in places]
    assert found.as_numpy("truncated").shape == (3,)


def test_triton_is_told_of_several_labels_and_numbers(
    tritons: triton.InferenceServerClient, bundles: dict[str, Path]
) -> None:
    found = tritons.infer("multi_label_classification", [tensor("text", [TEXT, ""], True)], headers=key())
    answers = expected(bundles, "multi_label_classification", [TEXT, ""])
    assert [json.loads(one) for one in strings(found.as_numpy("label"))] == [answer.labels for answer in answers]
    np.testing.assert_allclose(found.as_numpy("score"), [list(one.scores.values()) for one in answers], atol=1e-4)
    number = tritons.infer("regression", [tensor("text", [TEXT], False)], headers=key()).as_numpy("score")
    np.testing.assert_allclose(number, [[expected(bundles, "regression", [TEXT])[0].value]], atol=1e-4)


def test_answers_of_load_are_plain_data(bundles: dict[str, Path]) -> None:
    for answer in expected(bundles, "question-answering", [(QUESTION, CONTEXT)]):
        assert json.loads(json.dumps(dataclasses.asdict(answer)))["answer"] == answer.answer
