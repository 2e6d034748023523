"""Short texts side by side, in a bundle that says so: each is answered as it is alone, and in its own place."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertline import serve
from bertline.artifacts import bundle, files
from bertline.serve import variants
from bertline.serve.engine import Bundle
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch


@pytest.fixture
def packing(tiny_bundle: Path) -> Path:
    """The bundle of `sealed`, of which four texts of up to 16 tokens are computed at once."""
    manifest = json.loads((tiny_bundle / bundle.MANIFEST).read_text())
    files.write_json(tiny_bundle / bundle.MANIFEST, manifest | {"packing": {"tokens": 16, "texts": 4, "gains": {}}})
    return tiny_bundle


def test_texts_are_packed_and_each_has_its_own_answer(
    sealed: Path, packing: Path, texts: Callable[..., list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third has few characters and many tokens, and so is computed alone, amid those that are packed."""
    asked = [row["text"][: 20 + index] if index % 3 else "a " * 25 + row["text"][:9]
             for index, row in enumerate(texts(40, 1))]  # fmt: skip
    shapes: list[tuple[int, ...]] = []

    def sums(_: OnnxRuntime, batch: Batch) -> Output:
        """Logits that tell texts apart, and know nothing of padding."""
        shapes.append(batch["input_ids"].shape)
        logits = (batch["input_ids"] * batch["attention_mask"]).sum(axis=1) / 10_000
        return np.stack([np.zeros_like(logits), logits], axis=1).astype(np.float32)

    with serve.load(sealed, threads=1) as model, serve.load(packing, threads=1) as packer:
        monkeypatch.setattr(OnnxRuntime, "run", sums)
        alone = model.predict(asked)
        assert {rows for rows, _ in shapes} == {1}
        shapes.clear()
        assert packer.predict(asked) == alone
    assert len({str(answer) for answer in alone}) > 35
    assert {rows for rows, length in shapes if length <= 16} > {2}
    assert {rows for rows, length in shapes if length > 16} == {1}


def test_what_was_measured_of_the_chosen_model_holds_for_no_other(
    packing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Bundle(packing).packing is not None
    chosen = variants.pick(bundle.read(packing))
    other = replace(chosen, runtime=chosen.runtime.model_copy(update={"cpu_classes": ["arm64"]}))
    monkeypatch.setattr(variants, "pick", lambda manifest: other)
    assert Bundle(packing).packing is None
