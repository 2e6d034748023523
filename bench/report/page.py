"""What pages have in common: tables, plots with what they say, the frame around them, and figures in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bertline.bench.report import plots
from bertline.bench.report.plots import figure

Result = Mapping[str, Any]


class Table(NamedTuple):
    """A head and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """The row to stand out."""
    words: int | None = None
    """The column that holds sentences."""


class Plot(NamedTuple):
    """A plot with what it says in a sentence, the names of its colors, and its figures."""

    title: str
    caption: str
    svg: str
    legend: Sequence[tuple[int, str, str]]
    """Of each color: which, what stands in it, and its name."""
    table: Table
    words: str = ""
    """What is to be seen, for those who cannot."""


def render(**content: Any) -> str:
    """The HTML, of what report.html.j2 names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(colors=plots.COLORS, **content)


def facts(machine: Result, versions: Mapping[str, str], more: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names and values for the foot of a page: machine, versions, and more; none that is empty."""
    found = {
        "CPU": f"{machine['cpu']}, {count(machine['cores'], 'core')}",
        "CPU class": f"{machine['cpu_class']} ({', '.join(machine['instruction_sets'])})",
        "memory": f"{machine['memory_bytes'] / 1e9:.0f} GB",
        "system": f"{machine['system']}, Python {machine['python']}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, value) for name, value in {**found, **more}.items() if value]


def single(grid: Sequence[Result]) -> list[Result]:
    """The points of the smallest batch, mostly one text, by length."""
    smallest = min(point["batch"] for point in grid)
    return sorted((point for point in grid if point["batch"] == smallest), key=lambda point: int(point["length"]))


def words(metric: str) -> str:
    """A score's name as people write it."""
    return metric.replace("macro_f1", "macro-F1").replace("micro_f1", "micro-F1").replace("_", " ")


def key(point: Result) -> str:
    """A point of the grid, as 1×128."""
    return f"{point['batch']}×{point['length']}"


def megabytes(size: int) -> str:
    """Bytes in MB."""
    return f"{figure(size / 1e6)} MB"


def count(number: int, noun: str) -> str:
    """As 1 thread or 2 threads."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
