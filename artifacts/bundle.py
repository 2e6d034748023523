"""The bundle folder: a Hugging Face folder with one ONNX model, and bertline.json, which accounts for every file."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bertline.artifacts import files
from bertline.artifacts.errors import DamagedError, InputError
from bertline.artifacts.files import FileEntry
from bertline.artifacts.machine import Machine
from bertline.artifacts.task import Part, TaskSettings

MANIFEST = "bertline.json"
MODEL = "onnx/model.onnx"


class Runtime(Part):
    """What runs the model."""

    name: Literal["onnxruntime"] = "onnxruntime"
    model: str = MODEL
    """The ONNX file, relative to the bundle."""
    opset: int
    ir_version: int
    """Of the ONNX file format."""


class Fidelity(Part):
    """How far the fp32 ONNX model is from the PyTorch model it was converted from."""

    max_abs_logit_diff: float
    texts: int


class Candidate(Part):
    """A model that was tried: what it measured and why it was or was not chosen."""

    name: str
    runtime: str
    value: float
    """Of the metric, on the validation split."""
    drop: float
    """PyTorch's value minus this one's."""
    drop_interval: tuple[float, float]
    """95 % interval of the drop, paired bootstrap over the validation examples."""
    size_bytes: int
    p50_ms: dict[str, float]
    """Median milliseconds by BATCHxLENGTH."""
    chosen: bool
    why: str


class Golden(Part):
    """A text and what the sealed model gave for it where it was sealed."""

    text: str
    text_pair: str | None = None
    logits: list[float]
    """Of all its windows, one after the other."""


class Source(Part):
    """What the bundle was made from."""

    kind: Literal["run", "model", "checkpoint"]
    place: str
    """A local folder is named relative to the bundle."""
    model: str
    """What the run had started from; the model itself where there was no run."""
    weights_sha256: str


class Manifest(TaskSettings):
    """bertline.json."""

    schema_version: Literal[1] = 1
    name: str
    runtime: Runtime
    metric: str
    baseline: float
    """PyTorch's value of the metric on the validation split."""
    value: float
    drop: float
    max_drop: float
    examples: int
    """In the validation split that value and drop were measured on."""
    fidelity: Fidelity
    candidates: list[Candidate]
    target: str
    """The CPU class that the bundle is meant for."""
    machine: Machine
    """The one it was measured on."""
    threads: int
    versions: dict[str, str]
    source: Source
    golden: list[Golden]
    notices: list[str] = Field([])
    """What was left out or could not be done, and why."""
    created: str
    files: list[FileEntry]
    """Every file of the bundle but bertline.json."""

    def summary(self) -> dict[str, Any]:
        """All but the file list and the golden texts, for people."""
        return self.model_dump(mode="json", exclude={"files", "golden"})


def read(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        InputError: `folder` is no bundle.
        DamagedError: bertline.json is not as bertline writes it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: not a bundle, it has no {MANIFEST}; bertline export makes one")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def verify(folder: Path) -> Manifest:
    """Read a bundle and compare its files with the exact list, sizes and hashes of its manifest.

    Raises:
        InputError: `folder` is no bundle.
        DamagedError: the first file that differs, is missing, is not listed or is a link.
    """
    manifest = read(folder)
    files.compare(folder, manifest.files, besides=(MANIFEST,))
    return manifest
