"""What can be measured side by side: a model, the runtime that computes it, and what it takes to ask and score it.

A `System` is plain data: it crosses to a process of its own before anything heavy is imported (see `worker`).
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
    """One way to compute one model."""

    name: str
    """As it stands in tables: "pytorch", "onnxruntime-fp32", "bundle", …"""
    kind: Literal["pytorch"] | RuntimeName
    model: Path
    """Of PyTorch a Hugging Face folder, else the .onnx file."""
    tokenizer: Path
    """The folder of tokenizer.json and config.json."""
    settings: TaskSettings
    """How texts are read and scored."""
    share: float | None = None
    """Of a cascade: the share of texts that the larger model is asked."""

    @property
    def size_bytes(self) -> int:
        """On disk: the safetensors files; the .onnx file with its external data; OpenVINO's .xml and .bin."""
        alike = self.model.parent.glob(f"{self.model.stem}.*")
        weights = encoder.weight_files(self.model) if self.kind == "pytorch" else alike
        return sum(path.stat().st_size for path in weights)

    @property
    def max_tokens(self) -> int:
        """The longest input that the model's positions hold, in tokens."""
        return encoder.max_tokens(encoder.check(self.tokenizer, weights=False))


def from_bundle(folder: Path, manifest: Manifest) -> System:
    """The system that the bundle in `folder` is on this machine."""
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
