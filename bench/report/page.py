"""The parts that all pages share: tables, captioned plots, the frame around them, and formatted figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertline.bench.report import plots, templates
from bertline.bench.report.plots import figure

Result = Mapping[str, Any]


class Table(NamedTuple):
    """A head and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """The row to highlight."""
    words: int | None = None
    """The column that holds sentences."""


class Plot(NamedTuple):
    """A plot with its caption, legend and figures."""

    title: str
    caption: str
    svg: str
    legend: Sequence[tuple[int, str, str]]
    """For each entry: the color's number, the mark in it, and the name."""
    table: Table
    words: str = ""
    """A description of the plot for those who cannot see it."""


def render(**content: Any) -> str:
    """Render report.html.j2 with the values that it names."""
    return templates.render(Path(__file__).with_name("report.html.j2"), colors=plots.COLORS, **content)


def facts(machine: Result, versions: Mapping[str, str], more: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names and values for the footer of a page: machine, versions and `more`, without empty ones."""
    found = {
        "CPU": f"{machine['cpu']}, {count(machine['cores'], 'core')}",
        "CPU class": f"{machine['cpu_class']} ({', '.join(machine['instruction_sets'])})",
        "memory": f"{machine['memory_bytes'] / 1e9:.0f} GB",
        "system": f"{machine['system']}, Python {machine['python']}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, value) for name, value in {**found, **more}.items() if value]


def single(grid: Sequence[Result]) -> list[Result]:
    """The points of the smallest batch size, usually one, by length."""
    smallest = min(point["batch"] for point in grid)
    return sorted((point for point in grid if point["batch"] == smallest), key=lambda point: int(point["length"]))


def words(metric: str) -> str:
    """A metric's name as written in prose."""
    return metric.replace("macro_f1", "macro-F1").replace("micro_f1", "micro-F1").replace("_", " ")


def key(point: Result) -> str:
    """A point of the grid, such as 1×128."""
    return f"{point['batch']}×{point['length']}"


def megabytes(size: int) -> str:
    """Bytes in MB."""
    return f"{figure(size / 1e6)} MB"


def count(number: int, noun: str) -> str:
    """A number and its noun: 1 thread, 2 threads."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
