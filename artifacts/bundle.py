"""The bundle folder: a Hugging Face folder with one ONNX model, and bertline.json, which accounts for every file."""

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
"""Beside the manifest the only file that the manifest does not list: it is made of all others, last."""
AnyModel = TypeVar("AnyModel", bound=BaseModel)

RuntimeName = Literal["onnxruntime", "openvino"]


class RuntimeSpec(Part):
    """What runs the model."""

    name: RuntimeName = "onnxruntime"
    model: str = MODEL
    """The ONNX file, relative to the bundle."""
    opset: int
    ir_version: int
    """Of the ONNX file format."""
    cpu_classes: list[CpuClass] = Field([])
    """Where it is to be used; empty where the golden texts alone decide."""


class Variant(Part):
    """A model sealed beside the chosen one, for machines that lack its runtime or are of another CPU class."""

    candidate: str
    runtime: RuntimeSpec
    golden: list[list[float]]
    """The logits of each golden text."""


class Fidelity(Part):
    """How far the fp32 ONNX model is from the PyTorch model it was converted from, on real and adversarial texts."""

    max_abs_logit_diff: float
    """To PyTorch, each text alone."""
    max_abs_padding_diff: float = 0.0
    """Between a text alone and the same text padded, in a batch with others."""
    texts: int
    """Of the user's, cut to mixed lengths."""
    adversarial_texts: int = 0
    """Of bertline's, that few data sets hold."""
    tokens_compared: int = 0
    """Of all windows of all these texts, each as transformers reads it."""


class Packing(Part):
    """Short texts that the chosen model computes faster side by side, on one core, and answers as it does alone."""

    tokens: int = Field(gt=0)
    """The longest that are."""
    texts: int = Field(gt=1)
    """How many at once."""
    gains: dict[str, float]
    """By length in tokens: how many times as many texts a second, as measured at export."""


class Source(Part):
    """What a model was made from."""

    kind: Literal["run", "model", "checkpoint"]
    place: str
    """A local folder is named relative to the bundle."""
    model: str
    """What the run had started from; the model itself where there was no run."""
    weights_sha256: str
    revision: str | None = None
    """The commit of a model that was exported from a hub."""
    recipe: dict[str, Any] | None = None
    """The run's, as resolved, without the sections that say who else is told of a run."""
    provenance: Provenance | None = None
    """What the run was made of."""


class Cascade(Part):
    """A student that is asked first and, in one file with it, a larger model that is asked where it is not sure."""

    threshold: float
    """The least probability of its label with which the student is sure."""
    share: float = Field(ge=0, le=1)
    """Of the validation texts (windows, where tokens.long is that), those that the larger model was asked."""
    student: str
    """The candidate that answers first."""
    teacher: str
    """The candidate that answers otherwise, as its own bundle named it."""
    source: Source | None = None
    """What that was made from: the student's teacher, or a larger student of the same."""


class Candidate(Part):
    """A model that was tried: what it measured and why it was or was not chosen."""

    name: str
    runtime: RuntimeName
    value: float | None
    """Of the metric, on the validation split; None where it was not scored, since a faster one was chosen."""
    drop: float | None
    """PyTorch's value minus this one's."""
    drop_interval: tuple[float, float] | None
    """95 % interval of the drop, paired bootstrap over the validation examples; its upper end is the higher the more
    candidates were held against them before."""
    size_bytes: int
    p50_ms: dict[str, float]
    """Median milliseconds by BATCHxLENGTH; of a cascade the medians of both its ways, weighed by the texts that go
    them."""
    chosen: bool
    why: str


class Vocabulary(Part):
    """What is left of the model's vocabulary."""

    kept: int
    """Tokens."""
    of: int
    """Tokens there were."""
    bytes_saved: int
    """Of the weights that the bundle was made from, most often fp32; int8 saves a quarter of it."""
    texts: int
    """Rows of texts whose tokens were kept, the validation examples not counted."""
    unseen_share: float
    """Of the validation examples, those with a token that stands in none of these texts: as many of the texts yet to
    come will be read in shorter pieces."""


class Golden(Part):
    """A text and what the sealed model gave for it where it was sealed."""

    text: str
    text_pair: str | None = None
    logits: list[FiniteFloat]
    """Of all its windows, one after the other."""


class Manifest(TaskSettings):
    """bertline.json."""

    schema_version: Literal[1]
    name: str
    runtime: RuntimeSpec
    variants: list[Variant] = Field([])
    metric: str
    baseline: float
    """PyTorch's value of the metric on the validation split; the teacher's, where there is one."""
    value: float
    drop: float
    max_drop: float
    examples: int
    """In the validation split that value and drop were measured on."""
    data: FileEntry | None = None
    """Their file, where that is not the run's validation split."""
    options: dict[str, Any] = Field({})
    """What was asked of the export, defaults included, by the options of the command."""
    fidelity: Fidelity
    candidates: list[Candidate] = Field(
        json_schema_extra={"contains": {"properties": {"chosen": {"const": True}}}, "maxContains": 1}
    )
    """What was tried, one of which was chosen."""
    target: str
    """The CPU class that the bundle is meant for."""
    machine: Machine
    """The one it was measured on."""
    threads: int
    versions: dict[str, str]
    source: Source
    teacher: Source | None = None
    """What baseline and drop are held to, where that is another model than the source: a student's teacher."""
    golden: list[Golden]
    """What the chosen model answers; `variants` hold what theirs do."""
    cascade: Cascade | None = None
    """None where one model answers all texts."""
    packing: Packing | None = None
    """None where it gains nothing, changes answers, or was not measured."""
    vocabulary: Vocabulary | None = None
    """None where it is the model's own."""
    notices: list[str] = Field([])
    """What was left out or could not be done, and why."""
    created: str
    files: list[FileEntry]
    """Every file of the bundle but bertline.json."""

    @property
    def chosen(self) -> Candidate:
        """The one that `runtime` is of."""
        return next(one for one in self.candidates if one.chosen)

    @field_validator("candidates")
    @classmethod
    def _one_is_chosen(cls, candidates: list[Candidate]) -> list[Candidate]:
        if sum(one.chosen for one in candidates) != 1:
            raise ValueError("exactly one of them is chosen")
        return candidates

    def summary(self) -> dict[str, Any]:
        """All but the file list and the golden texts, for people."""
        return self.model_dump(mode="json", exclude={"files", "golden"})


class _Listed(BaseModel):
    """What of bertline.json is read before its schema is checked."""

    files: list[FileEntry]


class ModelFile(NamedTuple):
    """An ONNX file of a bundle that was found to be as it should."""

    content: bytes | Path
    """The bytes that were hashed; the path of one with tensors in other files, which no session takes as bytes."""
    embedding_rows: int | None
    """As `graph.Graph` has it."""


class Loaded(NamedTuple):
    """A bundle that was found to be as it should."""

    manifest: Manifest
    models: dict[str, ModelFile]
    """By path relative to the bundle."""
    json_files: dict[str, bytes]
    """Its JSON files but the manifest, likewise: the bytes that were hashed."""
    sha256: str
    """Of the manifest's bytes, which hold those of all other files."""


def demand(folder: Path) -> None:
    """Raise InputError if `folder` is no bundle."""
    if not folder.exists():
        raise InputError(f"{folder}: no such folder{places.near(folder)}{_from_hub(folder)}")
    if not (folder / MANIFEST).is_file():
        if RunFolder(folder).summary.is_file():
            raise InputError(f"{folder}: a run, not a bundle; make one of it: bertline export {folder} -o BUNDLE")
        raise InputError(f"{folder}: not a bundle, it has no {MANIFEST}; bertline export makes one")


def _from_hub(place: Path) -> str:
    """How to get the bundle whose hub id may have been meant by a folder that is not there."""
    if len(place.parts) != 2 or place.parent.exists() or not places.is_hub_id(str(place)):
        return ""
    folder = place.name.partition("@")[0]
    get = f"{places.downloading(str(place), folder)} --exclude .gitattributes && rm -r {folder}/.cache"
    return f"; a bundle is not loaded from a hub, download it first: {get}"


def read(folder: Path) -> Manifest:
    """The manifest of a bundle, whose files may be anything.

    Raises:
        InputError: `folder` is no bundle.
        DamagedError: bertline.json is not as bertline writes it.
    """
    return _valid(folder / MANIFEST, _content(folder), Manifest)


def verify(folder: Path) -> Manifest:
    """The manifest of a bundle that was found to be as it should. Raises what `load` raises."""
    return load(folder).manifest


def load(folder: Path) -> Loaded:
    """Check all of a bundle that takes no runtime: the set of its files, sizes, hashes, its schema, its ONNX graphs.

    Whose files they are, `signature.verify` tells.

    Raises:
        InputError: `folder` is no bundle.
        DamagedError: the first file that differs, is missing, is not listed or is a link, or is not what a bundle's
            file of its kind is.
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
    # none in a folder below: runtimes take a place with folders in it, */_ORT_MEM_ADDR_/*, for an address in memory
    beside = {path.name for path in paths if path.parent == PurePosixPath(name).parent}
    try:
        found = graph.check(content, manifest.task, beside)
    except ValueError as error:
        raise DamagedError(f"{folder / name}: {error}") from None
    return ModelFile(folder / name if found.outside else content, found.embedding_rows)


def _content(folder: Path) -> bytes:
    """bertline.json, which JSON readers cannot but read alike."""
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
        # a bundle of another version differs in more than its version
        first = min(error.errors(), key=lambda one: one["loc"] != ("schema_version",))
        raise DamagedError(f"{path}: {'.'.join(map(str, first['loc'])) or 'as a whole'}: {first['msg']}") from None
