"""The OpenAPI 3.1 document of a server: paths for each bundle, with the schema of its task."""

from typing import Any

from bertline import __version__
from bertline.artifacts.bundle import Manifest
from bertline.serve.http.open_inference import HEADER
from bertline.serve.http.shelf import Entry, Shelf

Schema = dict[str, Any]

REFUSALS = {
    "400": "The body is not JSON, or contradicts the headers.",
    "408": "The request did not arrive whole in time.",
    "413": "The body is too large.",
    "415": "The body's type or encoding is not supported.",
    "422": "The body has the wrong shape, too many texts, or texts that are too long.",
    "503": "The server is overloaded; Retry-After says when to retry.",
}
SERVER = "Server"
V2 = "Open Inference Protocol v2"
NUMBER: Schema = {"type": "number"}
STRING: Schema = {"type": "string"}
PLACE: Schema = {"type": "integer", "minimum": 0}
CUT: Schema = {
    "type": "boolean",
    "description": "Whether the text, or the question, was longer than what the model reads; false if absent.",
}
OPEN = ("page", "docs", "live", "ready")
"""Operations that require no key."""
ANSWERS: dict[str, Schema] = {
    "text-classification": {"label": STRING, "score": NUMBER},
    "token-classification": {"entity_group": STRING, "score": NUMBER, "word": STRING, "start": PLACE, "end": PLACE},
    "question-answering": {"answer": STRING, "score": NUMBER, "start": PLACE, "end": PLACE},
}


def document(shelf: Shelf, secured: bool) -> Schema:
    """Make the document.

    Args:
        shelf: the bundles.
        secured: whether an API key is required.
    """
    paths: dict[str, Schema] = {"/": {"post": _inference(shelf.first, "answer")}}
    for entry in shelf.entries.values():
        paths[f"/models/{entry.name}"] = {"post": _inference(entry, f"answer-{entry.name}")}
    paths["/"]["get"] = _text("page", "The web page.", "text/html")
    paths |= {
        "/docs": {"get": _text("docs", "This document as a web page.", "text/html")},
        "/models": {"get": _get("models", "The bundles, and what was measured of each.", _list(_MODEL), SERVER)},
        "/metrics": {"get": _text("metrics", "Metrics for Prometheus.", "text/plain")},
        "/v2": {"get": _get("server", "Name, version and extensions of the server.", _OBJECT)},
        "/v2/health/live": {"get": _health("live")},
        "/v2/health/ready": {"get": _health("ready")},
    }
    for entry in shelf.entries.values():
        path = f"/v2/models/{entry.name}"
        paths[path] = {"get": _get(f"model-{entry.name}", "Inputs and outputs of the model.", _OBJECT)}
        paths[f"{path}/ready"] = {"get": _get(f"ready-{entry.name}", "Whether the model is ready.", _OBJECT)}
        paths[f"{path}/infer"] = {"post": _v2_inference(entry)}
    if secured:
        _secure(paths)
    info = {"title": "bertline", "version": __version__, "summary": "Encoder models over HTTP."}
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if secured else {}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": {"Error": _ERROR}, **schemes}}


_OBJECT: Schema = {"type": "object"}
_MODEL: Schema = {
    "type": "object",
    "properties": {
        "thresholds": {
            "type": "object",
            "additionalProperties": NUMBER,
            "description": "For multi-label classification: the lowest score at which each label is given.",
        }
    },
}
_ERROR: Schema = {
    "type": "object", "properties": {"error": STRING}, "required": ["error"], "additionalProperties": False,
}  # fmt: skip


def _inference(entry: Entry, identity: str) -> Schema:
    manifest = entry.manifest
    request = entry.format.request.model_json_schema()
    return {
        "operationId": identity,
        "summary": f"{entry.name}: {manifest.task.replace('-', ' ')}, in Hugging Face's format.",
        "tags": ["Hugging Face"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inline(request)}}},
        "responses": {"200": _response("The answer.", _answer(manifest)), **_refusals()},
    }


def _answer(manifest: Manifest) -> Schema:
    """Schema of a 200: labels in a list of lists; otherwise one answer, or a list of them if the inputs are a list."""
    one = {
        "type": "object",
        "properties": {**ANSWERS[manifest.task], "truncated": CUT},
        "required": list(ANSWERS[manifest.task]),
        "additionalProperties": False,
    }
    if manifest.task == "text-classification":
        return _list(_list(one))
    if manifest.task == "token-classification":
        return {"anyOf": [_list(one), _list(_list(one))]}
    return {"anyOf": [one, _list(one), _list(_list(one))]}


def _v2_inference(entry: Entry) -> Schema:
    inputs = " and ".join(entry.manifest.inputs)
    return {
        "operationId": f"infer-{entry.name}",
        "summary": f"{entry.name}: Open Inference Protocol v2; takes {inputs}, BYTES [n].",
        "description": "Each shape is [n], with n strings in data; all inputs have the same n. Binary tensors follow "
        f"Triton's extension, with the header {HEADER}.",
        "tags": [V2],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _tensors(entry)}}},
        "responses": {"200": _response("The answer.", _OBJECT), **_refusals()},
    }


def _tensors(entry: Entry) -> Schema:
    """Schema of an Open Inference Protocol request, in JSON only."""
    limits, names = entry.limits, entry.manifest.inputs
    text = {"type": "string", "maxLength": limits.characters}
    size = {"type": "integer", "minimum": 1, "maximum": limits.texts}
    tensors = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "shape": {"type": "array", "prefixItems": [size, {"const": 1}], "items": False, "minItems": 1},
                "datatype": {"const": "BYTES"},
                "data": {"type": "array", "items": text, "minItems": 1, "maxItems": limits.texts},
            },
            "required": ["name", "shape", "datatype", "data"],
        }
        for name in names
    ]
    inputs = {"type": "array", "prefixItems": tensors, "items": False, "minItems": len(names)}
    return {
        "type": "object",
        "properties": {"id": {"type": ["string", "null"]}, "inputs": inputs},
        "required": ["inputs"],
    }


def _get(identity: str, summary: str, schema: Schema, tag: str = V2) -> Schema:
    return {
        "operationId": identity, "summary": summary, "tags": [tag],
        "responses": {"200": _response(summary, schema)},
    }  # fmt: skip


def _health(which: str) -> Schema:
    operation = _get(which, f"Whether the server is {which}; requires no key.", _OBJECT)
    if which == "ready":
        operation["responses"]["503"] = _response("The server is shutting down.", _OBJECT)
    return operation


def _text(identity: str, summary: str, kind: str) -> Schema:
    response = {"description": summary, "content": {kind: {"schema": STRING}}}
    return {"operationId": identity, "summary": summary, "tags": [SERVER], "responses": {"200": response}}


def _secure(paths: dict[str, Schema]) -> None:
    for operations in paths.values():
        for operation in operations.values():
            if operation["operationId"] not in OPEN:
                operation["security"] = [{"key": []}]
                operation["responses"]["401"] = _refusal("The API key is missing or unknown.")


def _refusals() -> Schema:
    return {status: _refusal(words) for status, words in REFUSALS.items()}


def _refusal(words: str) -> Schema:
    return _response(words, {"$ref": "#/components/schemas/Error"})


def _response(words: str, schema: Schema) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _inline(schema: Schema) -> Schema:
    """The schema without $defs, whose references would be resolved from the document's root."""
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inline(definitions[value["$ref"].rpartition("/")[2]])
        return {key: inline(one) for key, one in value.items()}

    found: Schema = inline(schema)
    return found
