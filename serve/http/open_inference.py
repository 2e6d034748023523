"""Open Inference Protocol v2, with the extension for binary tensors that Triton's clients use.

A bundle takes one BYTES tensor of texts, or two of equal length, named after its inputs (text; text and text_pair;
question and context). For n texts it returns:

    text classification   label BYTES [n], score FP32 [n]; for multi-label and regression, score FP32 [n, labels]
    entities, answers     label BYTES [m], score FP32 [m], start and end INT32 [m] (characters), text INT32 [m]: index
                          from 0 of the text that each belongs to; an answer's label is its words

and always truncated BOOL [n]: whether a text was longer than what the model reads.

See github.com/kserve/open-inference-protocol and Triton's protocol extension_binary_data.
"""

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertline.artifacts.bundle import Manifest
from bertline.artifacts.errors import InputError
from bertline.serve.http import bodies
from bertline.serve.http.limits import Limits
from bertline.serve.http.numbers import WHOLE
from bertline.serve.http.refusals import RefusedError
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text, refuse_lone_surrogates

HEADER = "inference-header-content-length"
LENGTH = 4
"""Bytes of the little-endian length before each element of a binary BYTES tensor."""

Tensors = dict[str, tuple[str, Any]]
"""Datatype and array of each output."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class InputParameters(_Part):
    """Parameters of an input."""

    binary_data_size: Annotated[int, Field(ge=0), WHOLE] | None = None
    """Bytes of the tensor, which follow the JSON."""


class Input(_Part):
    """A tensor of texts."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63), WHOLE]], Field(min_length=1, max_length=2)]
    """[n], or [n, 1]."""
    datatype: Literal["BYTES"]
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(_Part):
    """Parameters of an output."""

    binary_data: bool | None = None
    classification: int | None = None
    """Part of Triton's classification extension, which is not supported."""


class Output(_Part):
    """A requested output."""

    name: str
    parameters: OutputParameters | None = None


class RequestParameters(_Part):
    """Parameters of a request."""

    binary_data_output: bool = False


class InferRequest(_Part):
    """Body of POST /v2/models/NAME/infer."""

    id: str | None = None
    inputs: Annotated[list[Input], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[Output], Field(max_length=16)] | None = None
    """Requested outputs; all if there are none."""
    parameters: RequestParameters | None = None


def metadata(name: str, version: str, manifest: Manifest) -> dict[str, Any]:
    """The answer to GET /v2/models/NAME."""
    shapes = {output: (datatype, [-1] * array.ndim) for output, (datatype, array) in tensors([], manifest).items()}
    return {
        "name": name,
        "versions": [version],
        "platform": "bertline",
        "inputs": [{"name": one, "datatype": "BYTES", "shape": [-1]} for one in manifest.inputs],
        "outputs": [{"name": one, "datatype": kind, "shape": shape} for one, (kind, shape) in shapes.items()],
    }


def read(content: bytes, json_bytes: str | None, manifest: Manifest, limits: Limits) -> tuple[list[Text], InferRequest]:
    """The texts of a request, and the parsed request.

    Args:
        content: the body.
        json_bytes: value of the header HEADER, the size of the body's JSON in bytes; None if all of it is JSON.
        manifest: manifest of the bundle that is asked.
        limits: limits on texts and characters.

    Raises:
        RefusedError: 400 for bytes that contradict their description, 422 for the wrong shape.
    """
    head, tail = _split(content, json_bytes)
    try:
        request = InferRequest.model_validate(bodies.parsed(head))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RefusedError(422, f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}") from None
    columns: dict[str, list[str]] = {}
    for one in request.inputs:
        size = one.parameters.binary_data_size if one.parameters else None
        raw, tail = (None, tail) if size is None else (tail[:size], tail[size:])
        columns[one.name] = _strings(one, raw, size, limits)
    if tail:
        raise RefusedError(400, f"{len(tail):,} bytes follow the tensors that inputs describe")
    return _texts(columns, manifest, len(request.inputs)), request


def write(name: str, version: str, answers: Sequence[Answer], manifest: Manifest, request: InferRequest) -> Any:
    """The body of an answer, and how many bytes of it are JSON; None if all are."""
    found = tensors(answers, manifest)
    wanted = request.outputs or [Output(name=one) for one in found]
    binary = request.parameters is not None and request.parameters.binary_data_output
    outputs, tail = [], []
    for one in wanted:
        datatype, array = found[one.name]
        output: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": list(array.shape)}
        raw = _raw(array) if _is_binary(one, binary) else None
        output |= {"data": array.ravel().tolist()} if raw is None else {"parameters": {"binary_data_size": len(raw)}}
        tail.append(raw or b"")
        outputs.append(output)
    identity = {} if request.id is None else {"id": request.id}
    told = {"model_name": name, "model_version": version, **identity, "outputs": outputs}
    head = json.dumps(told, allow_nan=False).encode()
    return b"".join([head, *tail]), len(head) if any("parameters" in one for one in outputs) else None


def demand_outputs(request: InferRequest, manifest: Manifest) -> None:
    """Raise RefusedError 422 for an output that is unknown, in an unsupported form, or named twice."""
    known = tensors([], manifest)
    names = [one.name for one in request.outputs or []]
    if any(one.parameters and one.parameters.classification for one in request.outputs or []):
        raise RefusedError(422, "outputs: classification is not supported; use label and score")
    for name in names:
        if name not in known:
            raise RefusedError(422, f"outputs: {name!r:.60} is not one of {', '.join(known)}")
    if len(set(names)) < len(names):
        raise RefusedError(422, "outputs: an output is named twice")


def tensors(answers: Sequence[Answer], manifest: Manifest) -> Tensors:
    """The outputs of a bundle for n texts, by name."""
    truncated = ("BOOL", np.array([bool(one.get("truncated")) for one in answers], np.bool_))
    if manifest.task != "text-classification":
        return {**_places(answers, manifest.task), "truncated": truncated}
    if manifest.problem_type == "regression":
        scores = np.array([[one["value"]] for one in answers], np.float32).reshape(len(answers), 1)
        return {"label": _bytes([manifest.labels[0]] * len(answers)), "score": ("FP32", scores), "truncated": truncated}
    if manifest.problem_type == "multi_label_classification":
        rows = [[one["scores"][label] for label in manifest.labels] for one in answers]
        scores = np.array(rows, np.float32).reshape(len(answers), len(manifest.labels))
        return {
            "label": _bytes([json.dumps(one["labels"], ensure_ascii=False) for one in answers]),
            "score": ("FP32", scores),
            "truncated": truncated,
        }
    scores = np.array([one["score"] for one in answers], np.float32)
    return {"label": _bytes([one["label"] for one in answers]), "score": ("FP32", scores), "truncated": truncated}


def _places(answers: Sequence[Answer], task: str) -> Tensors:
    if task == "question-answering":
        rows = [(index, one["answer"], one) for index, one in enumerate(answers)]
    else:
        rows = [(index, one["label"], one) for index, answer in enumerate(answers) for one in answer["entities"]]
    return {
        "label": _bytes([label for _, label, _ in rows]),
        "score": ("FP32", np.array([one["score"] for _, _, one in rows], np.float32)),
        "start": ("INT32", np.array([one["start"] for _, _, one in rows], np.int32)),
        "end": ("INT32", np.array([one["end"] for _, _, one in rows], np.int32)),
        "text": ("INT32", np.array([index for index, _, _ in rows], np.int32)),
    }


def _bytes(strings: Sequence[str]) -> tuple[str, Any]:
    return "BYTES", np.array(strings, np.object_)


def _split(content: bytes, json_bytes: str | None) -> tuple[bytes, bytes]:
    if json_bytes is None:
        return content, b""
    if not (
        json_bytes.isascii() and json_bytes.isdecimal() and len(json_bytes) < 12 and int(json_bytes) <= len(content)
    ):
        raise RefusedError(
            400, f"Inference-Header-Content-Length {json_bytes!r:.40} is not a number of bytes within the body"
        )
    return content[: int(json_bytes)], content[int(json_bytes) :]


def _strings(tensor: Input, raw: bytes | None, size: int | None, limits: Limits) -> list[str]:
    """The texts of an input."""
    where = f"input {tensor.name!r:.60}"
    if raw is None:
        data = [one for row in tensor.data or [] for one in (row if isinstance(row, list) else [row])]
        if not all(isinstance(one, str) for one in data):
            raise RefusedError(422, f"{where}: data must be a list of strings for BYTES")
    else:
        if len(raw) != size:
            raise RefusedError(400, f"{where}: binary_data_size is {size:,}, but {len(raw):,} bytes are left")
        data = _elements(raw, where, limits)
    count = math.prod(tensor.shape)
    if len(data) != count or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
        raise RefusedError(422, f"{where}: shape is {tensor.shape}, but there are {len(data)} texts; [n] is expected")
    if not 1 <= count <= limits.texts:
        raise RefusedError(422, f"{where}: {count} texts; 1 to {limits.texts} are allowed in a request")
    for one in data:
        _check(one, where, limits)
    return data


def _check(text: str, where: str, limits: Limits) -> None:
    if len(text) > limits.characters:
        raise RefusedError(
            422, f"{where}: a text has {len(text):,} characters; at most {limits.characters:,} are allowed"
        )
    try:
        refuse_lone_surrogates(text, where)
    except InputError as error:
        raise RefusedError(422, str(error)) from None


def _elements(raw: bytes, where: str, limits: Limits) -> list[str]:
    found: list[str] = []
    place = 0
    while place < len(raw):
        if len(found) == limits.texts:
            raise RefusedError(422, f"{where}: over {limits.texts} texts; 1 to {limits.texts} are allowed in a request")
        begin = place + LENGTH
        end = begin + int.from_bytes(raw[place:begin], "little")
        if begin > len(raw) or end > len(raw):
            raise RefusedError(400, f"{where}: an element's length exceeds the bytes that are left")
        try:
            found.append(raw[begin:end].decode())
        except UnicodeDecodeError:
            raise RefusedError(400, f"{where}: element {len(found)} is not UTF-8") from None
        place = end
    return found


def _texts(columns: dict[str, list[str]], manifest: Manifest, given: int) -> list[Text]:
    names = list(manifest.inputs)
    if sorted(columns) != sorted(names) or given != len(names):
        raise RefusedError(422, f"inputs: {', '.join(columns)!r:.80}, but this model takes {' and '.join(names)}")
    if len({len(columns[name]) for name in names}) > 1:
        raise RefusedError(422, f"inputs: {' and '.join(names)} have different numbers of texts")
    if len(names) == 1:
        return [(text, None) for text in columns[names[0]]]
    return list(zip(*(columns[name] for name in names), strict=True))


def _is_binary(output: Output, otherwise: bool) -> bool:
    asked = output.parameters.binary_data if output.parameters else None
    return otherwise if asked is None else asked


def _raw(array: Any) -> bytes:
    if array.dtype != np.object_:
        return bytes(array.tobytes())
    return b"".join(len(one).to_bytes(LENGTH, "little") + one for one in (str(text).encode() for text in array.ravel()))
