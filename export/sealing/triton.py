"""A bundle that is a model of a Triton model repository as well: its ONNX file lies where Triton looks for it.

Triton calls the model what its folder is called, finds any number of them side by side, and leaves alone what else they
hold, the manifest among it: such a bundle is inspected, measured and asked as any other.
"""

from pathlib import Path
from typing import Any

import onnx

from bertline.artifacts import files
from bertline.artifacts.bundle import Manifest
from bertline.export.sealing.templates import render
from bertline.tasks import catalog
from bertline.tasks.text_classification import TextClassification

MODEL = "1/model.onnx"
"""Version 1; Triton serves the highest."""
CONFIG = "config.pbtxt"
LABELS = "labels.txt"
MAX_BATCH_SIZE = 32
"""Texts that Triton may join; `bertline serve` joins only where that was measured to pay."""
ROWS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""The model's inputs, and what the `tokenizers` library calls them."""
TYPES = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}


def write(folder: Path, manifest: Manifest) -> None:
    """Write config.pbtxt, and labels.txt where one vector of scores is a text's answer.

    Args:
        folder: the bundle, its model among it.
        manifest: names task and labels.
    """
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    labels = manifest.labels if manifest.task == "text-classification" else []
    if labels:
        files.write_text(folder / LABELS, "".join(f"{label}\n" for label in labels))
    config = render(
        "config.pbtxt.j2",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=[_tensor(one) for one in graph.input],
        outputs=[_tensor(one) for one in graph.output],
        labels=LABELS if labels else "",
    )
    files.write_text(folder / CONFIG, config)


def section(folder: Path, manifest: Manifest) -> str:
    """What the README says of it: how texts become inputs, and outputs answers.

    Args:
        folder: the bundle, model and tokenizer among it.
        manifest: of the bundle.
    """
    names = {one.name for one in onnx.load(folder / MODEL, load_external_data=False).graph.input}
    tokens, decision = manifest.tokens, manifest.decision
    return render(
        "triton.md.j2",
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
    """The line that sets a tokenizer of the `tokenizers` library to read what `Tokenizer` reads."""
    tokens = manifest.tokens
    if tokens.long == "head+tail":
        return "tokenizer.no_truncation()"
    windows = f", stride={tokens.stride}" if tokens.long == "windows" else ""
    second = ', strategy="only_second"' if windows and manifest.task == "question-answering" else ""
    left = ', direction="left"' if tokens.long == "tail" else ""
    return f"tokenizer.enable_truncation({tokens.max_length}{windows}{second}{left})"


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Name, type and dimensions but for the batch's; -1 for one that varies."""
    kind = value.type.tensor_type
    dims = [one.dim_value if one.HasField("dim_value") else -1 for one in kind.shape.dim]
    return {"name": value.name, "type": TYPES[kind.elem_type], "dims": dims[1:]}
