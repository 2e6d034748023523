"""The bundle: a Hugging Face folder with an ONNX model, and its manifest, bertline.json, which lists every file."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, field_validator

from bertline.artifacts import files, graph, places, strict_json
from bertline.artifacts.errors import DamagedError, InputError
from bertline.artifacts.files import FileEntry
from bertline.artifacts.machine import CpuClass, Machine
from bertline.artifacts.run import Provenance, RunFolder
from bertline.artifacts.strict_json import NotJsonError
from bertline.artifacts.task import Part, TaskSettings

MANIFEST = "bertline.json"
MODEL = "onnx/model.onnx"
SIGNATURE = "model.sig"
"""The only file besides the manifest that the manifest does not list: it is made last, from all the others."""
AnyModel = TypeVar("AnyModel", bound=BaseModel)

RuntimeName = Literal["onnxruntime", "openvino"]


class RuntimeSpec(Part):
    """An ONNX file and the runtime that runs it."""

    name: RuntimeName = "onnxruntime"
    model: str = MODEL
    """Path of the ONNX file, relative to the bundle."""
    opset: int
    ir_version: int
    """Version of the ONNX file format."""
    cpu_classes: list[CpuClass] = Field([])
    """CPU classes this model is for; empty: any CPU that reproduces the golden logits."""


class Variant(Part):
    """A model sealed beside the chosen one, for machines that lack its runtime or have another CPU class."""

    candidate: str
    runtime: RuntimeSpec
    golden: list[list[float]]
    """Logits of each golden text."""


class Fidelity(Part):
    """How far the fp32 ONNX model is from the PyTorch model it was converted from, on real and adversarial texts."""

    max_abs_logit_diff: float
    """Largest difference of a logit from PyTorch's, each text computed alone."""
    max_abs_padding_diff: float = 0.0
    """Largest difference of a logit between a text computed alone and the same text padded in a batch."""
    texts: int
    """Number of user texts compared, cut to mixed lengths."""
    adversarial_texts: int = 0
    """Number of built-in adversarial texts compared."""
    tokens_compared: int = 0
    """Number of tokens compared with transformers' tokenization, over all windows of all these texts."""


class Packing(Part):
    """How short texts are batched on one core, where that is faster and leaves the answers unchanged."""

    tokens: int = Field(gt=0)
    """Longest text, in tokens, that is batched with others."""
    texts: int = Field(gt=1)
    """Number of texts in a batch, at most."""
    gains: dict[str, float]
    """Throughput gain by text length in tokens, as measured at export: 1.5 is 1.5 times as many texts per second."""


class Source(Part):
    """What a model was made from."""

    kind: Literal["run", "model", "checkpoint"]
    place: str
    """Local folder, relative to the bundle, or hub id."""
    model: str
    """Model that the run started from; without a run, the exported model itself."""
    weights_sha256: str
    revision: str | None = None
    """Commit of a model that was exported from a hub."""
    recipe: dict[str, Any] | None = None
    """Resolved recipe of the run, without the sections of its monitors."""
    provenance: Provenance | None = None
    """Weights and data that the run was made from."""


class Cascade(Part):
    """A student that answers first and, in the same file, a larger model that answers where the student is unsure."""

    threshold: float
    """Probability of its label from which on the student counts as sure."""
    share: float = Field(ge=0, le=1)
    """Share of the validation texts (windows, where tokens.long is windows) that the larger model answered."""
    student: str
    """Candidate that answers first."""
    larger: str
    """Candidate of the larger model, which answers where the student is unsure, as its own bundle named it."""
    source: Source | None = None
    """What the larger model was made from: the student's teacher, or a larger student of that teacher."""


class Candidate(Part):
    """A model that was tried: what was measured, and why it was or was not chosen."""

    name: str
    runtime: RuntimeName
    value: float | None
    """Value of the metric on the validation split; None where a faster candidate was chosen before this was scored."""
    drop: float | None
    """Value of PyTorch minus the value of this candidate."""
    drop_interval: tuple[float, float] | None
    """95 % interval of the drop, by a paired bootstrap over the validation examples; its upper end is wider for each
    candidate that failed on the same examples before."""
    size_bytes: int
    p50_ms: dict[str, float]
    """Median latency in milliseconds by BATCHxLENGTH; for a cascade, the mean of the medians with and without the
    larger model, weighted by the share of texts that takes each path."""
    chosen: bool
    why: str


class Vocabulary(Part):
    """How much of the model's vocabulary was kept when it was trimmed."""

    kept: int
    """Number of tokens kept."""
    of: int
    """Number of tokens before trimming."""
    bytes_saved: int
    """Bytes saved in the weights that the bundle was made from, most often fp32; int8 saves a quarter of that."""
    texts: int
    """Number of rows of text whose tokens were kept, not counting the validation examples."""
    unseen_share: float
    """Share of the validation examples with a token that occurs in none of these texts: an estimate of the share of
    future texts that will be split into shorter tokens than before."""


class Golden(Part):
    """A text and the logits that the sealed model gave for it when it was sealed."""

    text: str
    text_pair: str | None = None
    logits: list[FiniteFloat]
    """Logits of all windows of the text, one after the other."""


class Manifest(TaskSettings):
    """bertline.json."""

    schema_version: Literal[1]
    name: str
    runtime: RuntimeSpec
    variants: list[Variant] = Field([])
    metric: str
    baseline: float
    """Value of the metric on the validation split by PyTorch, or by the teacher where there is one."""
    value: float
    drop: float
    max_drop: float
    examples: int
    """Number of validation examples that value and drop were measured on."""
    data: FileEntry | None = None
    """File of these examples, where they are not the run's validation split."""
    options: dict[str, Any] = Field({})
    """Options of the export command, with defaults filled in."""
    fidelity: Fidelity
    candidates: list[Candidate] = Field(
        json_schema_extra={"contains": {"properties": {"chosen": {"const": True}}}, "maxContains": 1}
    )
    """All candidates tried; exactly one is chosen."""
    target: str
    """CPU class that the bundle is meant for."""
    machine: Machine
    """Machine that the candidates were measured on."""
    threads: int
    versions: dict[str, str]
    source: Source
    teacher: Source | None = None
    """Teacher that baseline and drop refer to, where the source is a student."""
    golden: list[Golden]
    """Golden texts with the logits of the chosen model; `variants` hold the logits of the others."""
    cascade: Cascade | None = None
    """Cascade of a student and a larger model; None where one model answers all texts."""
    packing: Packing | None = None
    """Batching of short texts; None where it gains nothing, changes answers, or was not measured."""
    vocabulary: Vocabulary | None = None
    """Trimming of the vocabulary; None where it was not trimmed."""
    notices: list[str] = Field([])
    """What was left out or could not be done, and why."""
    created: str
    files: list[FileEntry]
    """Every file of the bundle except bertline.json and model.sig."""

    @property
    def chosen(self) -> Candidate:
        """The candidate that `runtime` runs."""
        return next(one for one in self.candidates if one.chosen)

    @field_validator("candidates")
    @classmethod
    def _one_is_chosen(cls, candidates: list[Candidate]) -> list[Candidate]:
        if sum(one.chosen for one in candidates) != 1:
            raise ValueError("exactly one of them is chosen")
        return candidates

    def summary(self) -> dict[str, Any]:
        """The manifest without its file list and golden texts, for people."""
        return self.model_dump(mode="json", exclude={"files", "golden"})


class _Listed(BaseModel):
    """The part of bertline.json that is read before its schema is checked."""

    files: list[FileEntry]


class ModelFile(NamedTuple):
    """An ONNX file of a bundle that passed every check."""

    content: bytes | Path
    """The bytes that were hashed; or the path, where tensors are in other files: no session takes that as bytes."""
    embedding_rows: int | None
    """See `graph.Graph`."""


class Loaded(NamedTuple):
    """A bundle that passed every check."""

    manifest: Manifest
    models: dict[str, ModelFile]
    """ONNX files by path relative to the bundle."""
    json_files: dict[str, bytes]
    """Bytes that were hashed, by path relative to the bundle, of every JSON file except the manifest."""
    sha256: str
    """Hash of the manifest, which holds the hashes of all other files."""


def demand(folder: Path) -> None:
    """Raise InputError if `folder` is not a bundle."""
    if not folder.exists():
        raise InputError(f"{folder}: no such folder{places.near(folder)}{_from_hub(folder)}")
    if not (folder / MANIFEST).is_file():
        if RunFolder(folder).summary.is_file():
            raise InputError(f"{folder}: a run, not a bundle; make one of it: bertline export {folder} -o BUNDLE")
        raise InputError(f"{folder}: not a bundle, it has no {MANIFEST}; bertline export makes one")


def _from_hub(place: Path) -> str:
    """How to download the bundle, where the missing folder may have been meant as a hub id."""
    if len(place.parts) != 2 or place.parent.exists() or not places.is_hub_id(str(place)):
        return ""
    folder = place.name.partition("@")[0]
    get = f"{places.downloading(str(place), folder)} --exclude .gitattributes && rm -r {folder}/.cache"
    return f"; a bundle is not loaded from a hub, download it first: {get}"


def read(folder: Path) -> Manifest:
    """Read the manifest of a bundle without checking its other files.

    Raises:
        InputError: `folder` is not a bundle.
        DamagedError: bertline.json is not as bertline writes it.
    """
    return _valid(folder / MANIFEST, _content(folder), Manifest)


def verify(folder: Path) -> Manifest:
    """Check a bundle as `load` does and return its manifest. Raises what `load` raises."""
    return load(folder).manifest


def load(folder: Path) -> Loaded:
    """Check everything that needs no runtime: the set of files, their sizes and hashes, the schema, the ONNX graphs.

    Who made the files is checked by `signature.verify`.

    Raises:
        InputError: `folder` is not a bundle.
        DamagedError: names the first file that differs, is missing, is not listed, is a link, or whose content does not
            belong in a bundle.
    """
    content = _content(folder)
    listed = _valid(folder / MANIFEST, content, _Listed).files
    graphs, json_files = ([entry.path for entry in listed if entry.path.endswith(end)] for end in (".onnx", ".json"))
    kept = files.compare(folder, listed, besides=(MANIFEST, SIGNATURE), keep=[*graphs, *json_files])
    manifest = _valid(folder / MANIFEST, content, Manifest)
    for runtime in (manifest.runtime, *(variant.runtime for variant in manifest.variants)):
        if runtime.model not in graphs:
            raise DamagedError(f"{folder / MANIFEST}: runtime.model {runtime.model!r} is no ONNX file of the list")
    models = {name: _model(folder, name, kept[name], manifest) for name in graphs}
    return Loaded(manifest, models, {name: kept[name] for name in json_files}, hashlib.sha256(content).hexdigest())


def schema() -> dict[str, Any]:
    """The JSON Schema of bertline.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}


def _model(folder: Path, name: str, content: bytes, manifest: Manifest) -> ModelFile:
    paths = [PurePosixPath(entry.path) for entry in manifest.files]
    # no subfolders: ONNX Runtime takes a location such as */_ORT_MEM_ADDR_/* for an address in memory
    beside = {path.name for path in paths if path.parent == PurePosixPath(name).parent}
    try:
        found = graph.check(content, manifest.task, beside)
    except ValueError as error:
        raise DamagedError(f"{folder / name}: {error}") from None
    return ModelFile(folder / name if found.outside else content, found.embedding_rows)


def _content(folder: Path) -> bytes:
    """The bytes of bertline.json, once it is certain that all JSON readers read them alike."""
    demand(folder)
    path = folder / MANIFEST
    content = path.read_bytes()
    try:
        strict_json.loads(content)
    except NotJsonError as error:
        raise DamagedError(f"{path}: not readable as JSON ({error})") from None
    return content


def _valid(path: Path, content: bytes, model: type[AnyModel]) -> AnyModel:
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        # a bundle of another version also differs elsewhere, and its version is the fault to name
        first = min(error.errors(), key=lambda one: one["loc"] != ("schema_version",))
        raise DamagedError(f"{path}: {'.'.join(map(str, first['loc'])) or 'as a whole'}: {first['msg']}") from None
