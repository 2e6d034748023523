"""The bundle folder: written beside its place, proven there, and renamed to it; complete, or not at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertline.artifacts import files
from bertline.artifacts.bundle import MANIFEST, Golden, Manifest
from bertline.bench import report
from bertline.bench.compare import Measured
from bertline.export import hugging_face, portable, triton
from bertline.export.card import card
from bertline.export.fidelity import cut
from bertline.export.graphs import Graph
from bertline.export.sources import Origin
from bertline.serve.engine import Engine
from bertline.serve.runtimes import OnnxRuntime
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.tasks.tokens import Text

GOLDEN_TEXTS = 6
GOLDEN_WORDS = 12


def seal(
    bundle: Path, origin: Origin, graph: Graph, manifest: Manifest, result: dict[str, Any], pytorch: Measured
) -> None:
    """Make the bundle folder and load it as a server would, golden texts and all, before it gets its name.

    Args:
        bundle: where; must not exist.
        origin: gives configuration, tokenizer and golden texts.
        graph: the chosen one.
        manifest: of the bundle, but for golden texts and files.
        result: the `export` JSON, for the report.
        pytorch: for the model card.

    Raises:
        InputError: `bundle` exists.
        GateError: the model is not as `portable.check` has it.
        DamagedError: the folder does not load or does not answer as it should.
    """
    with files.new_folder(bundle) as folder:
        model = folder / manifest.runtime.model
        model.parent.mkdir()
        portable.copy(graph.path, model)
        portable.check(model)
        hugging_face.write(folder, origin.folder, manifest, split=portable.is_external(model))
        manifest = manifest.model_copy(update={"golden": golden(folder, manifest, golden_texts(origin.examples))})
        readme = card(manifest, pytorch)
        if manifest.runtime.model == triton.MODEL:
            triton.write(folder, manifest)
            readme += triton.section(folder, manifest)
        files.write_text(folder / "README.md", readme)
        files.write_text(folder / "report.html", report.export_page(result, manifest.model_dump(mode="json")))
        manifest = manifest.model_copy(update={"files": files.listing(folder)})
        files.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        Engine.load(folder, manifest.threads)


def golden_texts(examples: Sequence[Example]) -> list[Text]:
    """The first words of a few examples from all over."""
    chosen = [examples[index * len(examples) // GOLDEN_TEXTS] for index in range(GOLDEN_TEXTS)]
    texts = [(cut(text, GOLDEN_WORDS), None if pair is None else cut(pair, GOLDEN_WORDS)) for text, pair, _ in chosen]
    return list(dict.fromkeys(texts))


def golden(folder: Path, manifest: Manifest, texts: Sequence[Text]) -> list[Golden]:
    """What the model in `folder` answers."""
    task = catalog.make(manifest)
    engine = Engine(task, task.tokenizer(folder), OnnxRuntime(folder / manifest.runtime.model, manifest.threads))
    return [Golden(text=text, text_pair=pair, logits=engine.logits((text, pair))) for text, pair in texts]
