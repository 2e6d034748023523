"""What was measured, for people: a table for the terminal, and pages that stand alone.

The pages are one HTML file each: plots as inline SVG, no script, no reference to anything outside. The same result
gives the same page. What stands in a plot stands in a table behind it as well. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable

from bertline.bench import plots
from bertline.bench.plots import Bar, Bubble, Line, figure

Result = Mapping[str, Any]


class Table(NamedTuple):
    """A head and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None  # the row to stand out
    words: int | None = None  # the column that holds sentences


class Plot(NamedTuple):
    """A plot with what it says in a sentence, the names of its colors, and its figures."""

    title: str
    caption: str
    svg: str
    legend: Sequence[tuple[int, str, str]]  # color, what stands in it, name
    table: Table
    words: str = ""  # what is to be seen, for those who cannot


def terminal(result: Result) -> RenderableType:
    """A bench result as two tables of one row a system: speed; quality and cost. They fit in 80 columns."""
    return Group(_rich(_latency_table(result)), _rich(_cost_table(result)))


def bench_page(result: Result, command: str = "") -> str:
    """The page of a bench result.

    Args:
        result: what `compare.bench` returned.
        command: the command line that measured it, told in the footer.
    """
    machine, systems = result["machine"], result["systems"]
    words = f"{_count(result['threads'], 'thread')} on {machine['cpu']} ({machine['cpu_class']})"
    return _page(
        title=" · ".join(row["name"] for row in systems),
        kind="benchmark",
        lead=f"The same {result['texts']:,} texts and the same token ids for all, {words}, each system in a process of "
        f"its own, in turns over {_count(result['rounds'], 'round')}, warm-up left out.",
        tiles=_bench_tiles(result),
        plots=[_latency_plot(result), _quality_plot(result), _throughput_plot(result), _cost_plot(result)],
        notes=[],
        tables=[],
        facts=_facts(machine, result["versions"], {"measured": result["measured"], "command": command}),
    )


def export_page(result: Result, manifest: Result) -> str:
    """The page of an export: every candidate that was tried, and why one was chosen.

    Args:
        result: the `export` JSON: metric, baseline, fidelity, candidates, pytorch_p50_ms.
        manifest: of the bundle: name, max_drop, examples, threads, machine, versions, created, source, notices.
    """
    machine = manifest["machine"]
    chosen = next(row for row in result["candidates"] if row["chosen"])
    return _page(
        title=manifest["name"],
        kind="export",
        lead=f"{len(result['candidates'])} candidates made from {manifest['source']['place']}, measured on "
        f"{manifest['examples']:,} validation texts and timed with {_count(manifest['threads'], 'thread')} on "
        f"{machine['cpu']} ({machine['cpu_class']}). Chosen, with at most {manifest['max_drop']:g} of "
        f"{result['metric']} to lose: {chosen['name']}.",
        notes=manifest["notices"],
        tiles=_export_tiles(result, chosen),
        plots=[_candidates_plot(result, manifest["max_drop"]), _candidates_latency_plot(result)],
        tables=[("Every candidate, and why", _candidates_table(result["candidates"]))],
        facts=_facts(machine, manifest["versions"], {"created": manifest["created"]}),
    )


# What the plots and tables show: of a bench result


def _bench_tiles(result: Result) -> list[tuple[str, str]]:
    last, first = result["systems"][-1], result["systems"][0]
    metric = result["metrics"][0]
    factors = [(f"{factor:.1f} ×", f"{pair}, batch 1, geometric mean") for pair, factor in result["speedup"].items()]
    return [
        *reversed(factors),
        (f"{last[metric]:.3f}", f"{_words(metric)} of {last['name']}; {first['name']} {first[metric]:.3f}"),
        (f"{last['agreement']:.1%}", f"agreement with {first['name']}"),
        (_megabytes(last["size_bytes"]), f"on disk; {first['name']} {_megabytes(first['size_bytes'])}"),
    ]


def _latency_plot(result: Result) -> Plot:
    lines = []
    for color, row in enumerate(result["systems"]):
        points = _single(row["grid"])
        lengths = [point["length"] for point in points]
        p50, p90 = ([point[key] for point in points] for key in ("p50_ms", "p90_ms"))
        lines.append(Line(figure(p50[-1]), color, lengths, p50, p90))
    return Plot(
        "Latency of one text",
        "Median milliseconds for a single text by its length in tokens; the band reaches up to the 90th percentile. "
        "Both axes are logarithmic. Lower is better.",
        plots.latency(lines),
        _legend(result["systems"]),
        _percentiles_table(result),
    )


def _quality_plot(result: Result) -> Plot:
    point = _typical(result["systems"][0]["grid"])
    metric = result["metrics"][0]
    bubbles = []
    for color, row in enumerate(result["systems"]):
        ms = next(each["p50_ms"] for each in row["grid"] if _key(each) == _key(point))
        low, high = row["interval"]
        bubbles.append(Bubble(f"{row[metric]:.3f}", color, ms, row[metric], (low, high), row["size_bytes"]))
    return Plot(
        f"Speed against {_words(metric)}",
        f"{_words(metric).capitalize()} on {result['texts']:,} texts over the median milliseconds for one text of "
        f"{point['length']} tokens; "
        "the area is the size on disk. Up and to the left is better. The whiskers are the 95 % interval that so "
        "many texts can tell; all systems answered the same ones, so between them less is needed to differ.",
        (plots.speed_and_quality(bubbles, _words(metric), f"milliseconds for one text of {point['length']} tokens")),
        _legend(result["systems"]),
        _cost_table(result),
    )


def _throughput_plot(result: Result) -> Plot:
    grid = result["systems"][0]["grid"]
    panels = []
    for point in [_typical(grid), *(point for point in grid if point["batch"] > 1)]:
        rates = [row["grid"][grid.index(point)]["texts_per_second"] for row in result["systems"]]
        title = f"{_count(point['batch'], 'text')} at a time, {point['length']} tokens"
        panels.append((title, _bars(result["systems"], rates)))
    return Plot(
        "Throughput",
        "Texts a second at the median latency. Longer is better.",
        plots.bars("throughput", panels),
        (),
        _throughput_table(result),
    )


def _cost_plot(result: Result) -> Plot:
    columns = [
        ("peak memory, MB", "peak_rss_bytes", 1e6),
        ("size of the model on disk, MB", "size_bytes", 1e6),
        ("loading, seconds", "load_seconds", 1.0),
    ]
    rows = result["systems"]
    panels = [(title, _bars(rows, [row[key] / unit for row in rows])) for title, key, unit in columns]
    return Plot(
        "Memory, size and loading",
        "What a process that answers with one copy of the model takes. Memory is the peak, interpreter and libraries "
        "included; loading lasts from making the runtime to its first answer, libraries imported before. "
        "Shorter is better.",
        plots.bars("cost", panels),
        (),
        _cost_table(result),
    )


def _latency_table(result: Result) -> Table:
    """Median milliseconds by batch × tokens, the highest throughput and the speed-up, a row a system."""
    grid = result["systems"][0]["grid"]
    rows = []
    for row in result["systems"]:
        medians = [figure(point["p50_ms"]) for point in row["grid"]]
        best = max(point["texts_per_second"] for point in row["grid"])
        factors = [factor for pair, factor in result["speedup"].items() if pair.startswith(f"{row['name']} over ")]
        rows.append([row["name"], *medians, figure(best), f"{factors[0]:.2f} ×" if factors else "1 ×"])
    return Table(["p50 ms", *(_key(point) for point in grid), "texts/s", "speed-up"], rows)


def _cost_table(result: Result) -> Table:
    """Scores, agreement, size, memory and load time, a row a system."""
    metrics = result["metrics"]
    rows = [
        [
            row["name"],
            *(f"{row[metric]:.4f}" for metric in metrics),
            f"{row['agreement']:.1%}",
            _megabytes(row["size_bytes"]),
            _megabytes(row["peak_rss_bytes"]),
            f"{row['load_seconds']:.2f} s",
        ]
        for row in result["systems"]
    ]
    return Table(["system", *map(_words, metrics), "agreement", "size", "memory", "load"], rows)


def _percentiles_table(result: Result) -> Table:
    keys = ("p50_ms", "p90_ms", "p99_ms")
    rows = [
        [row["name"], _key(point), *(figure(point[key]) for key in keys)]
        for row in result["systems"]
        for point in row["grid"]
    ]
    return Table(["system", "batch × tokens", "p50 ms", "p90 ms", "p99 ms"], rows)


def _throughput_table(result: Result) -> Table:
    grid = result["systems"][0]["grid"]
    rows = [[row["name"], *(figure(point["texts_per_second"]) for point in row["grid"])] for row in result["systems"]]
    return Table(["texts/s", *(_key(point) for point in grid)], rows)


# What the plots and tables show: of an export


def _export_tiles(result: Result, chosen: Result) -> list[tuple[str, str]]:
    low, high = chosen["drop_interval"]
    fidelity = result["fidelity"]
    factor = _mean(result["pytorch_p50_ms"]) / _mean(chosen["p50_ms"])
    return [
        (f"{factor:.1f} ×", "as fast as PyTorch, geometric mean"),
        (f"{chosen['value']:.3f}", f"{result['metric']} of the bundle; PyTorch {result['baseline']:.3f}"),
        (f"{chosen['drop']:+.3f}", f"drop; 95 % interval {low:+.3f} to {high:+.3f}"),
        (_megabytes(chosen["size_bytes"]), "on disk"),
        (f"{fidelity['max_abs_logit_diff']:.1e}", f"largest |Δlogit| of fp32 ONNX on {fidelity['texts']:,} texts"),
    ]


def _candidates_plot(result: Result, max_drop: float) -> Plot:
    """Accuracy, latency and size of all candidates that were scored."""
    metric, baseline = result["metric"], result["baseline"]
    pytorch = _mean(result["pytorch_p50_ms"])
    numbered = zip(_numbered(result["candidates"]), result["candidates"], strict=True)
    scored = [(entry, row) for entry, row in numbered if row["value"] is not None]
    bubbles, rows, words = [], [], [f"pytorch {baseline:.4f} at {figure(pytorch)} ms"]
    for (color, mark, name), row in scored:
        low, high = row["drop_interval"]
        ms, size = _mean(row["p50_ms"]), row["size_bytes"]
        bubbles.append(Bubble(mark, color, ms, row["value"], (baseline - high, baseline - low), size, row["chosen"]))
        rows.append([name, f"{row['value']:.4f}", figure(ms), _megabytes(size)])
        words.append(f"{name}{', chosen' * row['chosen']} {row['value']:.4f} at {figure(ms)} ms, {_megabytes(size)}")
    left = len(result["candidates"]) - len(scored)
    return Plot(
        "All candidates",
        f"Validation {_words(metric)} over milliseconds, the geometric mean of the medians below; the area is the "
        f"size on disk, the ring marks the chosen one. Diamond and dotted line: PyTorch's {baseline:.4f} in "
        f"{figure(pytorch)} ms. Below the dashed line, {max_drop:g} under it, none is chosen. The whiskers are the "
        f"95 % interval of the drop.{f' Not scored, and not here: {left}.' if left else ''}",
        plots.speed_and_quality(
            bubbles, _words(metric), "milliseconds, geometric mean", (pytorch, baseline), baseline - max_drop
        ),
        [entry for entry, _ in scored],
        Table(["candidate", metric, "mean of p50 ms", "size"], rows),
        "; ".join(words),
    )


def _candidates_latency_plot(result: Result) -> Plot:
    rows = [{"name": "pytorch", "p50_ms": result["pytorch_p50_ms"]}, *result["candidates"]]
    legend = [(0, "P", "pytorch"), *_numbered(result["candidates"])]
    lines = []
    for (color, mark, _), row in zip(legend, rows, strict=True):
        points = _single(_grid(row["p50_ms"]))
        lengths, p50 = ([point[key] for point in points] for key in ("length", "p50_ms"))
        lines.append(Line(mark, color, lengths, p50))
    grid = _grid(result["pytorch_p50_ms"])
    texts = _count(grid[0]["batch"], "text")
    return Plot(
        f"Latency of {texts}",
        f"Median milliseconds for {texts} at a time by length in tokens. Both axes are logarithmic. Lower is better.",
        plots.latency(lines),
        legend,
        Table(
            ["p50 ms", *(_key(point) for point in grid)],
            [[row["name"], *(figure(ms) for ms in row["p50_ms"].values())] for row in rows],
        ),
    )


def _candidates_table(candidates: Sequence[Result]) -> Table:
    rows = []
    for row in candidates:
        scores = ["not scored", "", ""]
        if row["value"] is not None:
            low, high = row["drop_interval"]
            scores = [f"{row['value']:.4f}", f"{row['drop']:+.4f}", f"{low:+.3f} to {high:+.3f}"]
        rows.append([row["name"], row["runtime"], *scores, _megabytes(row["size_bytes"]), row["why"]])
    marked = [row["chosen"] for row in candidates].index(True)
    return Table(["candidate", "runtime", "value", "drop", "95 % interval", "size", "why"], rows, marked, words=6)


# Shared


def _page(**content: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(colors=plots.COLORS, **content)


def _rich(table: Table) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for index, head in enumerate(table.head):
        drawn.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _facts(machine: Result, versions: Mapping[str, str], more: Mapping[str, str]) -> list[tuple[str, str]]:
    facts = {
        "CPU": f"{machine['cpu']}, {_count(machine['cores'], 'core')}",
        "CPU class": f"{machine['cpu_class']} ({', '.join(machine['instruction_sets'])})",
        "memory": f"{machine['memory_bytes'] / 1e9:.0f} GB",
        "system": f"{machine['system']}, Python {machine['python']}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, value) for name, value in {**facts, **more}.items() if value]


def _legend(rows: Sequence[Result]) -> list[tuple[int, str, str]]:
    return [(index % plots.COLORS, "", row["name"]) for index, row in enumerate(rows)]


def _numbered(candidates: Sequence[Result]) -> list[tuple[int, str, str]]:
    """A legend for more rows than colors tell apart; the first color is PyTorch's."""
    return [(number % plots.COLORS, f"{number}", row["name"]) for number, row in enumerate(candidates, start=1)]


def _bars(rows: Sequence[Result], values: Sequence[float]) -> list[Bar]:
    pairs = zip(rows, values, strict=True)
    return [Bar(row["name"], color, value, figure(value)) for color, (row, value) in enumerate(pairs)]


def _grid(p50_ms: Mapping[str, float]) -> list[Result]:
    """Medians by "1x16", … as the points of a grid."""
    keys = [(key.split("x"), ms) for key, ms in p50_ms.items()]
    return [{"batch": int(batch), "length": int(length), "p50_ms": ms} for (batch, length), ms in keys]


def _single(grid: Sequence[Result]) -> list[Result]:
    """The points of the smallest batch, mostly one text, by length."""
    smallest = min(point["batch"] for point in grid)
    return sorted((point for point in grid if point["batch"] == smallest), key=lambda point: int(point["length"]))


def _mean(p50_ms: Mapping[str, float]) -> float:
    """Milliseconds that stand for all that were measured, as candidates are compared."""
    return geometric_mean(p50_ms.values())


def _typical(grid: Sequence[Result]) -> Result:
    """The point that stands for latency where there is room for one: a text of 128 tokens, or the nearest to it."""
    return min(_single(grid), key=lambda point: abs(int(point["length"]) - 128))


def _words(metric: str) -> str:
    """A score's name as people write it."""
    return metric.replace("macro_f1", "macro-F1").replace("micro_f1", "micro-F1").replace("_", " ")


def _key(point: Result) -> str:
    return f"{point['batch']}×{point['length']}"


def _megabytes(size: int) -> str:
    return f"{figure(size / 1e6)} MB"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
