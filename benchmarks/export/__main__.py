"""A bundle beside PyTorch, optimum's fp32 and int8 files, and OpenVINO: latency, accuracy and size, in one run.

    python -m bertline.benchmarks.export RUN [--json FILE]

RUN is a finished run on reviews, such as `bertline demo` leaves; all systems are scored on its test split. The same is
then timed for BERT-base with random weights, whose scores mean nothing. Every system runs in its own process, with the
same token ids and number of threads, and they are timed in turns. The machine should be otherwise idle; it takes about
half an hour on two cores.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from bertline.artifacts import bundle, files, machine
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.bench import compare
from bertline.bench.systems import System
from bertline.benchmarks.export import peers
from bertline.benchmarks.report import Command, dated, say
from bertline.export import sources, systems
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.quiet import quiet
from bertline.export.sources import Origin
from bertline.launch.demo import MAX_DROP

GRID = ((1, 16), (1, 64), (1, 128), (1, 512))
ROUNDS = 3
BASE = "BERT-base, random weights"
GOALS = {
    "avx2": {"pytorch": 3.0, "optimum fp32": 1.5, "optimum int8": 1.15, "openvino": 1.3},
    "avx512_vnni": {"pytorch": 6.5, "optimum fp32": 2.7, "optimum int8": 1.35, "openvino": 1.0},
}
"""Target speedup over each system by CPU class; other classes have the targets of AVX2."""


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures to this new file.")
def main(run: Path, report: Path | None) -> None:
    """Compare a bundle of RUN, and one of BERT-base, with the other systems."""
    if report is not None:
        files.check_new(report)
    with tempfile.TemporaryDirectory(prefix="bertline-") as work:
        origin = sources.read(str(run), RunFolder(run).split("test"))
        real = measure(origin, ExportOptions(MAX_DROP), run, Path(work, "real"), say)
        Console().print(origin.name, show(real))
        large = base(origin, Path(work, "base-model"))
        sized = measure(large, ExportOptions(1.0), large.folder, Path(work, "base"), say)
        Console().print(BASE, show(sized))
    if report is not None:
        models = {origin.name: real, BASE: sized}
        files.write_json(report, dated({"models": models, "threads": machine.cores()}))


def measure(origin: Origin, options: ExportOptions, source: Path, work: Path, say: Say) -> dict[str, Any]:
    """Build all systems for a model and measure them side by side.

    Args:
        origin: the model and the examples it is scored on.
        options: options of the export.
        source: run or model folder to export.
        work: a folder to make.
        say: receives lines of progress.
    """
    work.mkdir()
    data = None if (source / "run.json").exists() else _texts(origin, work / "texts.jsonl")
    made = export(str(source), work / "bundle", options, data, say)
    say("building the systems to compare with")
    optimum = peers.optimum(origin, work)
    texts, _ = sources.calibration(origin)
    openvino = peers.openvino(origin, optimum[0].model, texts, work)
    ours = bundles(origin, work / "bundle")
    compared = [systems.pytorch(origin), *optimum, *openvino, *ours]
    found = compare.bench(compared, origin.examples, GRID, ROUNDS, machine.cores(), say)
    return {"chosen": made["chosen"], "systems": found["systems"], "ratios": ratios(found["systems"])}


def bundles(origin: Origin, folder: Path) -> list[System]:
    """The bundle as it runs on this CPU, and its model for ONNX Runtime if that is another one."""
    manifest = bundle.read(folder)
    runtimes = [manifest.runtime, *(one.runtime for one in manifest.variants)]
    names = ("bundle", *("bundle, onnxruntime alone" for _ in manifest.variants))
    return [
        System(name, one.name, folder / one.model, origin.tokenizer, origin.settings)
        for name, one in zip(names, runtimes, strict=True)
    ]


def base(origin: Origin, folder: Path) -> Origin:
    """A classifier of BERT-base's size with random weights, which take as long as trained ones."""
    import torch
    import transformers

    torch.manual_seed(0)
    with quiet():
        config = transformers.BertConfig(num_labels=len(origin.settings.labels))
        config.id2label = dict(enumerate(origin.settings.labels))
        config.label2id = {label: index for index, label in config.id2label.items()}
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(origin.folder).save_pretrained(folder)
    return replace(
        origin, kind="model", place=str(folder), folder=folder, tokenizer=folder, examples=origin.examples[:200]
    )


def _texts(origin: Origin, path: Path) -> Path:
    """Write the examples to a file, for the export of a model that has no run."""
    files.write_text(path, "".join(json.dumps(origin.task.row(one)) + "\n" for one in origin.examples))
    return path


def ratios(systems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast the bundle is as each rival, by the geometric mean of the medians.

    For optimum's int8 presets and for OpenVINO, the rival is the fastest one.
    """
    speed = {one["name"]: geometric_mean(point["p50_ms"] for point in one["grid"]) for one in systems}
    accuracy = {one["name"]: one["accuracy"] for one in systems}
    presets = [name for name in speed if name.startswith("optimum ") and name != "optimum fp32"]
    rivals = {
        "pytorch": "pytorch",
        "optimum fp32": "optimum fp32",
        "optimum int8": min(presets, key=speed.__getitem__),
        "openvino": min((name for name in speed if name.startswith("openvino")), key=speed.__getitem__),
    }
    goals = GOALS.get(machine.cpu_class(), GOALS["avx2"])
    return [
        {
            "over": rival,
            "ratio": speed[rival] / speed[ours],
            "of": ours,
            "at_least": goals[kind],
            "accuracy": accuracy[ours] - accuracy[rival],
        }
        for ours in speed
        if ours.startswith("bundle")
        for kind, rival in rivals.items()
    ]


def show(result: Mapping[str, Any]) -> RenderableType:
    """A table of systems and one of ratios."""
    lengths = [str(point["length"]) for point in result["systems"][0]["grid"]]
    heads = (*lengths, "mean", "score", "same", "MB", "peak")
    title = f"chosen: {result['chosen']}; ms, score, label as of PyTorch, MB on disk, MB held"
    table = Table("", *heads, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in result["systems"]:
        medians = [point["p50_ms"] for point in one["grid"]]
        figures = [*(f"{each:.1f}" for each in [*medians, geometric_mean(medians)]), f"{one['accuracy']:.4f}"]
        sizes = [f"{one['size_bytes'] / 1e6:.0f}", f"{one['peak_rss_bytes'] / 1e6:.0f}"]
        table.add_row(one["name"], *figures, f"{one['agreement']:.1%}", *sizes)
    apart = Table("times as fast", "over", "ratio", "to reach", "accuracy")
    for one in result["ratios"]:
        shown = (f"{one['ratio']:.2f}", f"{one['at_least']:.2f}", f"{one['accuracy']:+.4f}")
        apart.add_row(one["of"], one["over"], *shown)
    return Group(table, apart)


if __name__ == "__main__":
    main()
