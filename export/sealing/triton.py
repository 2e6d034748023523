"""Makes a bundle that is also a model of a Triton model repository, with its ONNX file where Triton looks for it.

Triton names a model after its folder, serves any number of such folders side by side, and ignores their other files, so
such a bundle can still be inspected, measured and served like any other.
"""

from pathlib import Path
from typing import Any

import onnx

from bertline.artifacts import files
from bertline.artifacts.bundle import Manifest
from bertline.bench.report.templates import render
from bertline.tasks import catalog
from bertline.tasks.text_classification import TextClassification

MODEL = "1/model.onnx"
"""Version 1; Triton serves the highest."""
CONFIG = "config.pbtxt"
LABELS = "labels.txt"
MAX_BATCH_SIZE = 32
"""The most texts that Triton may batch; `bertline serve` batches only if that was measured to pay."""
ROWS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""The model's inputs, and their names in the `tokenizers` library."""
TYPES = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}


def write(folder: Path, manifest: Manifest) -> None:
    """Write config.pbtxt, and for text classification labels.txt.

    Args:
        folder: the bundle, which must already contain the model.
        manifest: provides the task and labels.
    """
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    labels = manifest.labels if manifest.task == "text-classification" else []
    if labels:
        files.write_text(folder / LABELS, "".join(f"{label}\n" for label in labels))
    config = render(
        Path(__file__).with_name("config.pbtxt.j2"),
        max_batch_size=MAX_BATCH_SIZE,
        inputs=[_tensor(one) for one in graph.input],
        outputs=[_tensor(one) for one in graph.output],
        labels=LABELS if labels else "",
    )
    files.write_text(folder / CONFIG, config)


def section(folder: Path, manifest: Manifest) -> str:
    """The README's section about Triton: how to turn texts into inputs, and outputs into answers.

    Args:
        folder: the bundle, which must already contain model and tokenizer.
        manifest: the bundle's manifest.
    """
    names = {one.name for one in onnx.load(folder / MODEL, load_external_data=False).graph.input}
    tokens, decision = manifest.tokens, manifest.decision
    return render(
        Path(__file__).with_name("triton.md.j2"),
        task=manifest.task,
        problem_type=manifest.problem_type,
        tokens=tokens,
        decision=decision,
        thresholds=", ".join(f"{one:.4f}" for one in TextClassification(manifest).thresholds.values()),
        inputs=[(name, row) for name, row in ROWS.items() if name in names],
        truncation=_truncation(manifest),
        windows=tokens.long == "windows",
        paired=tokens.long == "windows" and manifest.task == "question-answering",
        tail=tokens.max_length // 2 if tokens.long == "head+tail" else 0,
        pad_id=catalog.make(manifest).tokenizer(folder).pad_id,
    )


def _truncation(manifest: Manifest) -> str:
    """The line of code that makes a tokenizer of the `tokenizers` library truncate as `Tokenizer` does."""
    tokens = manifest.tokens
    if tokens.long == "head+tail":
        return "tokenizer.no_truncation()"
    windows = f", stride={tokens.stride}" if tokens.long == "windows" else ""
    second = ', strategy="only_second"' if windows and manifest.task == "question-answering" else ""
    left = ', direction="left"' if tokens.long == "tail" else ""
    return f"tokenizer.enable_truncation({tokens.max_length}{windows}{second}{left})"


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """A tensor's name, type and dimensions without the batch dimension; -1 for a variable one."""
    kind = value.type.tensor_type
    dims = [one.dim_value if one.HasField("dim_value") else -1 for one in kind.shape.dim]
    return {"name": value.name, "type": TYPES[kind.elem_type], "dims": dims[1:]}
