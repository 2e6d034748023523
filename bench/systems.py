"""Systems to measure side by side: a model, the runtime that computes it, and the settings to run and score it.

A `System` is plain data: it is sent to a process of its own, which then imports the heavy libraries (see `worker`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertline.artifacts import encoder
from bertline.artifacts.bundle import Manifest, RuntimeName
from bertline.artifacts.task import TaskSettings
from bertline.serve import variants


@dataclass(frozen=True)
class System:
    """A model and the runtime that computes it."""

    name: str
    """The name in tables: "pytorch", "onnxruntime-fp32", "bundle", …"""
    kind: Literal["pytorch"] | RuntimeName
    model: Path
    """A Hugging Face folder for PyTorch, otherwise the .onnx file."""
    tokenizer: Path
    """The folder with tokenizer.json and config.json."""
    settings: TaskSettings
    """How texts are read and scored."""
    share: float | None = None
    """For a cascade, the share of texts that go to the larger model."""

    @property
    def size_bytes(self) -> int:
        """The size on disk: the safetensors files; the .onnx file with its external data; OpenVINO's .xml and .bin."""
        alike = self.model.parent.glob(f"{self.model.stem}.*")
        weights = encoder.weight_files(self.model) if self.kind == "pytorch" else alike
        return sum(path.stat().st_size for path in weights)


def from_bundle(folder: Path, manifest: Manifest) -> System:
    """The bundle in `folder` as a system, with the model that this machine uses."""
    runtime = variants.pick(manifest).runtime
    cascade = manifest.cascade if runtime == manifest.runtime else None
    return System(
        name="bundle",
        kind=runtime.name,
        model=folder / runtime.model,
        tokenizer=folder,
        settings=manifest.alone,
        share=None if cascade is None else cascade.share,
    )
