"""Seals the bundle folder: written under a temporary name, verified, then renamed, so it is complete or absent."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertline.artifacts import files
from bertline.artifacts.bundle import MANIFEST, Golden, Manifest, RuntimeSpec
from bertline.artifacts.sequences import evenly_spaced
from bertline.artifacts.signature import Sign
from bertline.bench.report import candidates
from bertline.export.candidates import cascade
from bertline.export.conversion import onnx_files
from bertline.export.conversion.graphs import Graph
from bertline.export.gates import emulation
from bertline.export.gates.fidelity import cut
from bertline.export.sealing import hugging_face, triton
from bertline.export.sealing.card import card
from bertline.export.sealing.manifest_draft import ManifestDraft
from bertline.export.sources import Origin
from bertline.serve.engine import Engine
from bertline.serve.runtimes import RUNTIMES, OnnxRuntime
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.tasks.tokens import Text

GOLDEN_TEXTS = 6
GOLDEN_WORDS = 12
WEIGHED_TEXTS = 256
"""How many texts those of a cascade are chosen from."""


def seal(
    bundle: Path, origin: Origin, draft: ManifestDraft, result: dict[str, Any], sign: Sign | None = None
) -> Manifest:
    """Make the bundle folder, and load it as a server would, golden texts included, before it gets its name.

    A bundle for another CPU class is also loaded on an emulated CPU of that class, if possible.

    Args:
        bundle: the folder to make; must not exist.
        origin: provides configuration, tokenizer and golden texts.
        draft: the manifest without golden texts and files, and the models.
        result: the `export` JSON, for the report and the model card.
        sign: signs the folder once it is verified.

    Raises:
        InputError: `bundle` exists.
        GateError: `onnx_files.check` refuses a model, or the emulated CPU answers differently.
        DamagedError: the folder does not load, or does not give its golden answers.
    """
    with files.new_folder(bundle) as folder:
        split = _write_models(folder, draft.graphs)
        hugging_face.write(folder, origin.tokenizer, draft.manifest, split)
        manifest = with_golden(folder, draft.manifest, golden_texts(folder, draft.manifest, origin.examples))
        manifest = _complete(folder, manifest, result)
        Engine.load(folder, manifest.threads)
        if news := emulation.prove(folder, manifest.target, manifest.machine.cpu_class):
            manifest = _complete(folder, manifest.model_copy(update={"notices": [*manifest.notices, news]}), result)
        if sign is not None:
            sign(folder)
    return manifest


def _write_models(folder: Path, graphs: Mapping[str, Graph]) -> bool:
    """Write and check the ONNX files; returns whether any has its weights in a separate file."""
    for place, graph in graphs.items():
        (folder / place).parent.mkdir(exist_ok=True)
        onnx_files.copy(graph.path, folder / place)
        onnx_files.check(folder / place)
    return any(onnx_files.is_external(folder / place) for place in graphs)


def _complete(folder: Path, manifest: Manifest, result: dict[str, Any]) -> Manifest:
    """Write what describes the models, and the manifest with the list of all other files; returns the manifest."""
    (folder / MANIFEST).unlink(missing_ok=True)
    _write_papers(folder, manifest, result)
    manifest = manifest.model_copy(update={"files": files.listing(folder)})
    files.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _write_papers(folder: Path, manifest: Manifest, result: dict[str, Any]) -> None:
    """Write the model card, the report, and Triton's files if the bundle has its layout."""
    readme = card(manifest, result["pytorch_p50_ms"], result["pytorch_size_bytes"])
    if (folder / triton.MODEL).exists():
        triton.write(folder, manifest)
        readme += triton.section(folder, manifest)
    files.write_text(folder / "README.md", readme)
    files.write_text(folder / "report.html", candidates.html(result, manifest.model_dump(mode="json")))


def golden_texts(folder: Path, manifest: Manifest, examples: Sequence[Example]) -> list[Text]:
    """The first words of a few examples, evenly spaced over all of them; in a cascade, both models answer some."""
    if manifest.cascade is None:
        return _first_words(evenly_spaced(examples, GOLDEN_TEXTS))
    weighed = list(evenly_spaced(examples, WEIGHED_TEXTS))
    whole = [(text, pair) for text, pair, _ in weighed]
    return _for_both_models(folder, manifest, _first_words(weighed), whole)


def _first_words(examples: Iterable[Example]) -> list[Text]:
    texts = [(cut(text, GOLDEN_WORDS), None if pair is None else cut(pair, GOLDEN_WORDS)) for text, pair, _ in examples]
    return list(dict.fromkeys(texts))


def _for_both_models(folder: Path, manifest: Manifest, *choices: Sequence[Text]) -> list[Text]:
    """The texts that a cascade's student is least and most sure of, of the first choice in which both models answer.

    Of a text near the threshold, rounding on another CPU would decide which model answers.
    """
    assert manifest.cascade is not None
    tokenizer = catalog.make(manifest).tokenizer(folder)
    model, half = OnnxRuntime(folder / manifest.runtime.model, manifest.threads), GOLDEN_TEXTS // 2
    for texts in choices:
        alone = [model.run(tokenizer.pad(tokenizer.encode([text])), threshold=0.0) for text in texts]
        sure = np.array([min(map(cascade.sureness, logits)) for logits in alone])
        order = np.argsort(sure, kind="stable")
        found = [texts[index] for index in dict.fromkeys((*order[:half].tolist(), *order[-half:].tolist()))]
        if sure.min() < manifest.cascade.threshold <= sure.max():
            break
    return found


def with_golden(folder: Path, manifest: Manifest, texts: Sequence[Text]) -> Manifest:
    """The manifest with the logits of each of the bundle's models for the golden texts."""
    chosen = logits(folder, manifest, manifest.runtime, texts)
    golden = [Golden(text=one, text_pair=two, logits=own) for (one, two), own in zip(texts, chosen, strict=True)]
    variants = [
        one.model_copy(update={"golden": logits(folder, manifest, one.runtime, texts)}) for one in manifest.variants
    ]
    return manifest.model_copy(update={"golden": golden, "variants": variants})


def logits(folder: Path, manifest: Manifest, runtime: RuntimeSpec, texts: Sequence[Text]) -> list[list[float]]:
    """The logits of a model in `folder` for each text."""
    task = catalog.make(manifest)
    loaded = RUNTIMES[runtime.name](folder / runtime.model, manifest.threads)
    engine = Engine(task, task.tokenizer(folder), loaded)
    return [engine.logits(text) for text in texts]
