"""Hugging Face's inference format, as `huggingface_hub.InferenceClient` speaks it: {"inputs": …, "parameters": …}.

A list of inputs is answered with a list. Labels come best first; entities are whole words, as the bundle was measured,
whatever `aggregation_strategy` says; positions count characters. If a text was longer than what the model reads,
`truncated` says so in each part of its answer.

See huggingface.co/docs/inference-providers/tasks.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from bertline.artifacts.bundle import Manifest
from bertline.serve.http.limits import Limits
from bertline.serve.http.numbers import WHOLE
from bertline.serve.http.refusals import RefusedError
from bertline.tasks.question_answering import TOLD
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class _Parameters(_Part):
    model_config = ConfigDict(json_schema_extra={"additionalProperties": {"type": "null"}})

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Drop what is null: typed clients write every parameter of Hugging Face's, known here or not."""
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class Classify(_Parameters):
    """Parameters of text classification."""

    top_k: Annotated[int, Field(ge=1), WHOLE] | None = None
    """How many labels to return, best first; all by default."""


class Group(_Parameters):
    """Parameters of token classification."""

    aggregation_strategy: Literal["simple", "first", "average", "max"] | None = None
    """All values have the same effect: entities are whole words."""


class Find(_Parameters):
    """Parameters of question answering."""

    top_k: Annotated[int, Field(ge=1, le=TOLD), WHOLE] | None = None
    """How many answers to return, best first, by default 1; as a list if more than 1."""


MANY = 1000
"""Faults of a request above which none is examined by itself: a body has room for 100,000, which take a second."""

PAIR = "Inputs"
"""Name of the pydantic model for an input of two texts."""
PARAMETERS: dict[str, type[_Parameters]] = {
    "text-classification": Classify,
    "token-classification": Group,
    "question-answering": Find,
}


class Format:
    """Reads the requests and writes the answers of one bundle."""

    def __init__(self, manifest: Manifest, limits: Limits) -> None:
        self._names, self._labels = manifest.inputs, manifest.labels
        self._parameters = PARAMETERS[manifest.task]
        self._write = _WRITERS[manifest.task]
        self.request = _request(manifest, limits)
        """The pydantic model of a request."""

    def read(self, body: Any) -> tuple[list[Text], Any]:
        """The texts of a request, and the parsed request.

        Raises:
            RefusedError: 422, for a body of the wrong shape or with a lone surrogate.
        """
        try:
            request: Any = self.request.model_validate(body)
        except ValidationError as error:
            raise RefusedError(422, _explain(error, self._names)) from None
        listed = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        return [self._text(one) for one in listed], request

    def write(self, answers: Sequence[Answer], request: Any) -> Any:
        """The answer to a request, as JSON values; a list only if the inputs are one, except that labels always are."""
        parameters = request.parameters or self._parameters()
        written = [self._write(answer, parameters, self._labels) for answer in answers]
        if isinstance(request.inputs, list) or self._write is _labels:
            return written
        return written[0]

    def _text(self, inputs: Any) -> Text:
        if isinstance(inputs, str):
            return inputs, None
        first, second = (getattr(inputs, name) for name in self._names)
        return first, second


def _request(manifest: Manifest, limits: Limits) -> type[BaseModel]:
    characters = Annotated[str, Field(max_length=limits.characters)]
    one: Any = characters
    if len(manifest.inputs) == 2:
        fields: dict[str, Any] = dict.fromkeys(manifest.inputs, (characters, ...))
        one = create_model(PAIR, __base__=_Part, **fields)
    several = Annotated[list[one], Field(min_length=1, max_length=limits.texts)]
    asked: dict[str, Any] = {
        "inputs": (one | several, ...),
        "parameters": (PARAMETERS[manifest.task] | None, None),
        "options": (dict[str, Any] | None, Field(None, description="Accepted for older clients; ignored.")),
    }
    return create_model("Request", __base__=_Part, **asked)


def _explain(error: ValidationError, names: Sequence[str]) -> str:
    """What is wrong with a request: the most deeply nested fault, since a union reports one for each alternative."""
    if error.error_count() > MANY:
        return f"the body: over {MANY:,} faults; see /docs"
    fault = max(error.errors(), key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    if fault["type"] == "extra_forbidden":
        return f"{str(fault['loc'][-1])!r:.60} is not a known key; see /docs"
    parts = [str(part) for part in fault["loc"] if part != PAIR]
    place = ".".join(part for part in parts if part.isdecimal() or part.isidentifier())
    return f"{place or 'the body'}: {_expected(fault, names) or fault['msg']}"


def _expected(fault: ErrorDetails, names: Sequence[str]) -> str | None:
    """A plain sentence for a fault where an object is expected; None for any other fault."""
    if fault["type"] != "model_type":
        return None
    keys = names if fault["ctx"]["class_name"] == PAIR else []
    shape = ", ".join(f'"{name}": …' for name in keys)
    return f"an object is expected, {{{shape}}}" if keys else "an object is expected"


def _truncated(answer: Answer) -> dict[str, bool]:
    return {"truncated": True} if answer.get("truncated") else {}


def _labels(answer: Answer, parameters: Any, labels: Sequence[str]) -> Any:
    truncated = _truncated(answer)
    if "value" in answer:
        return [{"label": labels[0], "score": answer["value"], **truncated}]
    ranked = sorted(answer["scores"].items(), key=lambda one: -one[1])[: parameters.top_k]
    return [{"label": label, "score": score, **truncated} for label, score in ranked]


def _entities(answer: Answer, *_: Any) -> Any:
    truncated = _truncated(answer)
    return [
        {
            "entity_group": one["label"], "score": one["score"], "word": one["text"], "start": one["start"],
            "end": one["end"], **truncated,
        }
        for one in answer["entities"]
    ]  # fmt: skip


def _answers(answer: Answer, parameters: Any, *_: Any) -> Any:
    truncated = _truncated(answer)
    best = {name: answer[name] for name in ("answer", "score", "start", "end")} | truncated
    count = parameters.top_k or 1
    if count == 1:
        return best
    others = [
        one | truncated for one in answer["n_best"] if one["answer"] != best["answer"] or one["start"] != best["start"]
    ]
    return [best, *others][:count]


_WRITERS: dict[str, Callable[[Answer, Any, Sequence[str]], Any]] = {
    "text-classification": _labels,
    "token-classification": _entities,
    "question-answering": _answers,
}
