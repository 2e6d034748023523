"""Shows a bench result as two tables in the terminal, and as an HTML page."""

from collections.abc import Sequence
from textwrap import fill

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from bertline.bench.report import page, plots
from bertline.bench.report.page import Plot, Result, Table
from bertline.bench.report.plots import Bar, Bubble, Line, figure

HEAD = 11
"""Characters of a line in the head of a terminal's table, so that a score with a long name takes no more room."""


def terminal(result: Result) -> RenderableType:
    """Two tables with a row per system: speed; quality, by at most two scores, and cost. They fit in 80 columns."""
    return Group(_rich(_latency_table(result)), _rich(_cost_table({**result, "metrics": result["metrics"][:2]})))


def html(result: Result, command: str = "") -> str:
    """The HTML page of a bench result.

    Args:
        result: what `compare.bench` returned.
        command: the command line that measured it, shown in the footer.
    """
    machine, systems = result["machine"], result["systems"]
    words = f"{page.count(result['threads'], 'thread')} on {machine['cpu']} ({machine['cpu_class']})"
    return page.render(
        title=" · ".join(row["name"] for row in systems),
        kind="benchmark",
        lead=f"The same {result['texts']:,} texts, and the same token ids for all with the same tokenizer; {words}; "
        f"each system in its own process, in turns over {page.count(result['rounds'], 'round')}, after a warm-up.",
        tiles=_tiles(result),
        plots=[_latency_plot(result), _quality_plot(result), _throughput_plot(result), _cost_plot(result)],
        notes=[
            f"{row['name']} is a cascade: {row['asked_share']:.1%} of these texts went to the larger model."
            for row in result["systems"]
            if row["asked_share"] is not None
        ],
        tables=[],
        facts=page.facts(machine, result["versions"], {"measured": result["measured"], "command": command}),
    )


def _tiles(result: Result) -> list[tuple[str, str]]:
    last, first = result["systems"][-1], result["systems"][0]
    metric = result["metrics"][0]
    factors = [(f"{factor:.1f} ×", f"{pair}, batch 1, geometric mean") for pair, factor in result["speedup"].items()]
    return [
        *reversed(factors),
        (f"{last[metric]:.3f}", f"{page.words(metric)} of {last['name']}; {first['name']} {first[metric]:.3f}"),
        (f"{last['agreement']:.1%}", f"agreement with {first['name']}"),
        (page.megabytes(last["size_bytes"]), f"on disk; {first['name']} {page.megabytes(first['size_bytes'])}"),
    ]


def _latency_plot(result: Result) -> Plot:
    lines = []
    for color, row in enumerate(result["systems"]):
        points = page.single(row["grid"])
        lengths = [point["length"] for point in points]
        p50, p90 = ([point[key] for point in points] for key in ("p50_ms", "p90_ms"))
        lines.append(Line(figure(p50[-1]), color, lengths, p50, p90))
    return Plot(
        "Latency of one text",
        "Median milliseconds for a single text by length in tokens; the band reaches up to the 90th percentile. "
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
        ms = next(each["p50_ms"] for each in row["grid"] if page.key(each) == page.key(point))
        low, high = row["interval"]
        bubbles.append(Bubble(f"{row[metric]:.3f}", color, ms, row[metric], (low, high), row["size_bytes"]))
    return Plot(
        f"Speed against {page.words(metric)}",
        f"{page.words(metric).capitalize()} on {result['texts']:,} texts over the median milliseconds for one text of "
        f"{point['length']} tokens; "
        "the area is the size on disk. Up and to the left is better. The whiskers are 95 % intervals; all systems "
        "answered the same texts, so smaller differences between them may be significant.",
        plots.speed_and_quality(bubbles, page.words(metric), f"milliseconds for one text of {point['length']} tokens"),
        _legend(result["systems"]),
        _cost_table(result),
    )


def _throughput_plot(result: Result) -> Plot:
    grid = result["systems"][0]["grid"]
    panels = []
    for point in [_typical(grid), *(point for point in grid if point["batch"] > 1)]:
        rates = [row["grid"][grid.index(point)]["texts_per_second"] for row in result["systems"]]
        title = f"{page.count(point['batch'], 'text')} at a time, {point['length']} tokens"
        panels.append((title, _bars(result["systems"], rates)))
    return Plot(
        "Throughput",
        "Texts per second at the median latency. Longer is better.",
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
        "The cost of a process with one copy of the model. Memory is the peak, including interpreter and libraries; "
        "loading lasts from creating the runtime to its first answer, with libraries already imported. "
        "Shorter is better.",
        plots.bars("cost", panels),
        (),
        _cost_table(result),
    )


def _latency_table(result: Result) -> Table:
    """Median milliseconds by batch × tokens, the highest throughput and the speed-up, with a row per system."""
    grid = result["systems"][0]["grid"]
    rows = []
    for row in result["systems"]:
        medians = [figure(point["p50_ms"]) for point in row["grid"]]
        best = max(point["texts_per_second"] for point in row["grid"])
        factors = [factor for pair, factor in result["speedup"].items() if pair.startswith(f"{row['name']} over ")]
        rows.append([row["name"], *medians, figure(best), f"{factors[0]:.2f} ×" if factors else "1 ×"])
    return Table(["p50 ms", *(page.key(point) for point in grid), "texts/s", "speed-up"], rows)


def _cost_table(result: Result) -> Table:
    """Scores, agreement, size, memory and load time, with a row per system."""
    metrics = result["metrics"]
    rows = [
        [
            row["name"],
            *(f"{row[metric]:.4f}" for metric in metrics),
            f"{row['agreement']:.1%}",
            page.megabytes(row["size_bytes"]),
            page.megabytes(row["peak_rss_bytes"]),
            f"{row['load_seconds']:.2f} s",
        ]
        for row in result["systems"]
    ]
    return Table(["system", *map(page.words, metrics), "agreement", "size", "memory", "load"], rows)


def _percentiles_table(result: Result) -> Table:
    rows = [
        [row["name"], page.key(point), figure(point["p50_ms"]), figure(point["p90_ms"]), _p99(point)]
        for row in result["systems"]
        for point in row["grid"]
    ]
    return Table(["system", "batch × tokens", "p50 ms", "p90 ms", "p99 ms"], rows)


def _p99(point: Result) -> str:
    """The 99th percentile; a dash if there are fewer than 100 repetitions."""
    return figure(point["p99_ms"]) if point["repetitions"] >= 100 else "–"


def _throughput_table(result: Result) -> Table:
    grid = result["systems"][0]["grid"]
    rows = [[row["name"], *(figure(point["texts_per_second"]) for point in row["grid"])] for row in result["systems"]]
    return Table(["texts/s", *(page.key(point) for point in grid)], rows)


def _typical(grid: Sequence[Result]) -> Result:
    """The point that represents latency: a text of 128 tokens, or of the nearest length."""
    return min(page.single(grid), key=lambda point: abs(int(point["length"]) - 128))


def _legend(rows: Sequence[Result]) -> list[tuple[int, str, str]]:
    return [(index % plots.COLORS, "", row["name"]) for index, row in enumerate(rows)]


def _bars(rows: Sequence[Result], values: Sequence[float]) -> list[Bar]:
    pairs = zip(rows, values, strict=True)
    return [Bar(row["name"], color, value, figure(value)) for color, (row, value) in enumerate(pairs)]


def _rich(table: Table) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for index, head in enumerate(table.head):
        drawn.add_column(fill(head, HEAD), justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(Text, row))  # brackets in a system's name are not markup
    return drawn
