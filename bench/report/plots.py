"""The plots of the report: each function takes plain figures and returns one inline `<svg>`.

The same figures give the same bytes (no dates, no random ids). Colors are CSS variables of the surrounding page
(--ink, --faint, --c0, --c1, …), so plots follow its dark mode; text stays text, in the page's font.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

COLORS = 8
"""The page defines --c0 to --c7; a ninth system starts over."""

# Placeholders that matplotlib accepts as colors; CSS variables replace them in its output.
_INK, _FAINT, _WARN = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "ink", _FAINT: "faint", _WARN: "warn"} | {f"#0404{i:02x}": f"c{i}" for i in range(COLORS)}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bertline",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.alpha": 0.45,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}


class Line(NamedTuple):
    """Latency over length in ms: the median and, if known, the 90th percentile; the label is at the line's end."""

    label: str
    color: int
    lengths: Sequence[int]
    p50_ms: Sequence[float]
    p90_ms: Sequence[float] | None = None


class Bubble(NamedTuple):
    """A system on the plane of speed and quality; the area is its size on disk."""

    label: str
    color: int
    ms: float
    value: float
    interval: tuple[float, float]
    size_bytes: int
    marked: bool = False


Label = tuple[float, float, str, int]
"""x, y, text, color."""
GAP = 10
"""Points between two lines of text."""


class Bar(NamedTuple):
    """A bar, with the text at its end."""

    label: str
    color: int
    value: float
    text: str


def latency(lines: Sequence[Line]) -> str:
    """Median latency by length, both axes logarithmic; the band reaches up to the 90th percentile."""
    with _axes("latency", 2.9) as drawing:
        axes = drawing.axes
        for line in lines:
            color = _color(line.color)
            axes.plot(line.lengths, line.p50_ms, color=color, marker="o", markersize=4, linewidth=1.8)
            if line.p90_ms:
                axes.fill_between(line.lengths, line.p50_ms, line.p90_ms, color=color, alpha=0.18, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        lengths = sorted({length for line in lines for length in line.lengths})
        axes.xaxis.set_major_locator(FixedLocator(lengths))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:.0f}"))
        _plain_log(axes, "y")
        axes.set_xlabel("tokens in the text")
        axes.set_ylabel("milliseconds")
        ends = [(line.lengths[-1], line.p50_ms[-1], line.label, line.color) for line in lines]
        _label_right(axes, ends)
    return drawing.svg


def speed_and_quality(
    bubbles: Sequence[Bubble],
    metric: str,
    ms: str,
    baseline: tuple[float, float] | None = None,
    limit: float | None = None,
) -> str:
    """Quality over latency: up and to the left is better.

    Args:
        bubbles: the systems to compare; labels of one or two digits stay readable even if there are many.
        metric, ms: the labels of the axes.
        baseline: milliseconds and value of the reference, drawn as a diamond on a line.
        limit: the lowest value that may be chosen.
    """
    with _axes("quality", 3.2) as drawing:
        axes = drawing.axes
        largest = max(bubble.size_bytes for bubble in bubbles)
        areas = [max(20.0, 420 * bubble.size_bytes / largest) for bubble in bubbles]
        for bubble, area in zip(bubbles, areas, strict=True):
            color, x, y = _color(bubble.color), [bubble.ms], [bubble.value]
            axes.plot(x * 2, bubble.interval, color=color, alpha=0.55, linewidth=1.2)
            axes.scatter(x, y, s=area, color=color, alpha=0.6, linewidth=0)
            if bubble.marked:
                axes.scatter(x, y, s=area + 90, facecolor="none", edgecolor=_INK, linewidth=1.3)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.12)
        if baseline is not None:
            axes.axhline(baseline[1], color=_INK, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.plot(*baseline, color=_INK, marker="D", markersize=5)
        if limit is not None:
            _forbid(axes, limit)
        _plain_log(axes, "x")
        axes.set_xlabel(ms)
        axes.set_ylabel(metric)
        _label_above(axes, [(bubble.ms, bubble.interval[1], bubble.label, bubble.color) for bubble in bubbles])
    return drawing.svg


def bars(name: str, panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Horizontal bars in panels below one another, each with its own scale from zero."""
    rows = [len(panel) for _, panel in panels]
    with _axes(name, 0.35 + sum(0.28 * count + 0.42 for count in rows), heights=rows) as drawing:
        for axes, (title, panel) in zip(drawing.all_axes, panels, strict=True):
            values = [bar.value for bar in panel]
            axes.barh(range(len(panel)), values, height=0.62, color=[_color(bar.color) for bar in panel])
            axes.set_yticks(range(len(panel)), [bar.label for bar in panel])
            axes.invert_yaxis()
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_xlim(0, max(values) * 1.22)
            axes.xaxis.set_major_locator(NullLocator())
            axes.tick_params(axis="y", length=0)
            axes.grid(False)
            axes.spines["bottom"].set_visible(False)
            for row, bar in enumerate(panel):
                axes.annotate(bar.text, (bar.value, row), (4, 0), textcoords="offset points", va="center")
    return drawing.svg


def figure(value: float) -> str:
    """Three significant digits without an exponent: 0.68, 4.32, 19.3, 1,007."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


class _Drawing:
    """An open figure; `svg` is set when the `with` block ends."""

    def __init__(self, height: float, heights: Sequence[int]) -> None:
        self.figure = Figure(figsize=(4.6, height), layout="constrained")
        grid = self.figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        self.all_axes: list[Axes] = list(grid[:, 0])
        self.axes = self.all_axes[0]
        self.svg = ""


@contextmanager
def _axes(name: str, height: float, heights: Sequence[int] = (1,)) -> Iterator[_Drawing]:
    with matplotlib.rc_context(_STYLE):
        drawing = _Drawing(height, heights)
        yield drawing
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawing.figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    drawing.svg = _inline(name, text.getvalue())


def _inline(name: str, svg: str) -> str:
    """The SVG as part of a page: no XML prolog or namespaces, ids unique to the plot, CSS variables as colors."""
    opening, _, rest = svg[svg.index("<svg") :].partition(">")
    opening = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", opening)
    svg = f"{opening}>{re.sub('<metadata>.*?</metadata>', '', rest, flags=re.DOTALL)}"
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    return svg


def _color(index: int) -> str:
    return f"#0404{index % COLORS:02x}"


def _plain_log(axes: Axes, which: str) -> None:
    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _forbid(axes: Axes, limit: float) -> None:
    """Shade the area below `limit`."""
    bottom, top = axes.get_ylim()
    bottom = min(bottom, limit - (top - limit) / 8)
    axes.axhline(limit, color=_WARN, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.axhspan(bottom, limit, color=_WARN, alpha=0.07, linewidth=0)
    axes.set_ylim(bottom, top)


def _label_right(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label to the right of its point, moved up or down if two would overlap."""
    heights = [height for _, height in _in_points(axes, labels)]
    for (x, y, text, color), height, moved in zip(labels, heights, spread(heights, GAP), strict=True):
        offset = (8, moved - height)
        axes.annotate(text, (x, y), offset, textcoords="offset points", va="center", color=_color(color))


def _label_above(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label above its point, and above any labels that it would overlap."""
    written: list[tuple[float, float, float]] = []
    for (x, y, text, color), (left, height) in sorted(zip(labels, _in_points(axes, labels), strict=True)):
        moved, wide = height + 2, 3.0 * len(text) + 1
        for other, its, half in sorted(written, key=lambda one: one[1]):
            if abs(other - left) < half + wide and abs(its - moved) < GAP:
                moved = its + GAP
        written.append((left, moved, wide))
        offset = (0, moved - height)
        axes.annotate(text, (x, y), offset, textcoords="offset points", ha="center", va="bottom", color=_color(color))


def _in_points(axes: Axes, labels: Sequence[Label]) -> list[tuple[float, float]]:
    """The positions of labels' points on the page, in typographic points."""
    root = axes.get_figure(root=True)
    assert root is not None
    root.draw_without_rendering()  # settles the layout, so that pixels are final
    places = [axes.transData.transform((x, y)) * 72 / root.dpi for x, y, _, _ in labels]
    return [(float(x), float(y)) for x, y in places]


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The values moved apart until they are at least `gap` from each other, in the same order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(values)
    for _ in range(len(values) ** 2):
        for low, high in pairwise(order):
            overlap = gap - (placed[high] - placed[low])
            if overlap > 0:
                placed[low] -= overlap / 2
                placed[high] += overlap / 2
    return placed
