"""The HTML page of an export: all candidates, their measurements, and why one was chosen."""

from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from bertline.bench.report import page, plots
from bertline.bench.report.page import Plot, Result, Table
from bertline.bench.report.plots import Bubble, Line, figure


def html(result: Result, manifest: Result) -> str:
    """The HTML page of an export.

    Args:
        result: the `export` JSON, of which metric, baseline, fidelity, candidates and pytorch_p50_ms are read.
        manifest: the bundle's manifest, of which name, max_drop, examples, threads, machine, versions, created, source
            and notices are read.
    """
    machine = manifest["machine"]
    chosen = next(row for row in result["candidates"] if row["chosen"])
    return page.render(
        title=manifest["name"],
        kind="export",
        lead=f"{len(result['candidates'])} candidates made from {manifest['source']['place']}, measured on "
        f"{manifest['examples']:,} labelled texts and timed with {page.count(manifest['threads'], 'thread')} on "
        f"{machine['cpu']} ({machine['cpu_class']}). Chosen to lose at most {manifest['max_drop']:g} of "
        f"{result['metric']}: {chosen['name']}.",
        notes=manifest["notices"],
        tiles=_tiles(result, chosen),
        plots=[_speed_plot(result, manifest["max_drop"]), _latency_plot(result)],
        tables=[("Every candidate, and why", _table(result["candidates"]))],
        facts=page.facts(machine, manifest["versions"], {"created": manifest["created"]}),
    )


def _tiles(result: Result, chosen: Result) -> list[tuple[str, str]]:
    low, high = chosen["drop_interval"]
    fidelity = result["fidelity"]
    factor = _mean(result["pytorch_p50_ms"]) / _mean(chosen["p50_ms"])
    return [
        (f"{factor:.1f} ×", "as fast as PyTorch, geometric mean"),
        (f"{chosen['value']:.3f}", f"{result['metric']} of the bundle; PyTorch {result['baseline']:.3f}"),
        (f"{chosen['drop']:+.3f}", f"drop; 95 % interval {low:+.3f} to {high:+.3f}"),
        (page.megabytes(chosen["size_bytes"]), "on disk"),
        (f"{fidelity['max_abs_logit_diff']:.1e}", f"largest |Δlogit| of fp32 ONNX on {fidelity['texts']:,} texts"),
    ]


def _speed_plot(result: Result, max_drop: float) -> Plot:
    """Accuracy, latency and size of all candidates that were scored."""
    metric, baseline = result["metric"], result["baseline"]
    pytorch = _mean(result["pytorch_p50_ms"])
    numbered = zip(_numbered(result["candidates"]), result["candidates"], strict=True)
    scored = [(entry, row) for entry, row in numbered if row["value"] is not None]
    bubbles, rows, words = [], [], [f"pytorch {baseline:.4f} at {figure(pytorch)} ms"]
    for (color, mark, name), row in scored:
        low, high = row["drop_interval"]
        ms, size = _mean(row["p50_ms"]), page.megabytes(row["size_bytes"])
        interval = baseline - high, baseline - low
        bubbles.append(Bubble(mark, color, ms, row["value"], interval, row["size_bytes"], row["chosen"]))
        rows.append([name, f"{row['value']:.4f}", figure(ms), size])
        words.append(f"{name}{', chosen' * row['chosen']} {row['value']:.4f} at {figure(ms)} ms, {size}")
    left = len(result["candidates"]) - len(scored)
    return Plot(
        "All candidates",
        f"The {page.words(metric)} over milliseconds, the geometric mean of the medians below; the area is the "
        f"size on disk, the ring marks the chosen one. Diamond and dotted line: PyTorch's {baseline:.4f} in "
        f"{figure(pytorch)} ms. None is chosen below the dashed line, {max_drop:g} under it. The whiskers are the "
        f"95 % interval of the drop.{f' Not scored, and not shown: {left}.' if left else ''}",
        plots.speed_and_quality(
            bubbles, page.words(metric), "milliseconds, geometric mean", (pytorch, baseline), baseline - max_drop
        ),
        [entry for entry, _ in scored],
        Table(["candidate", metric, "mean of p50 ms", "size"], rows),
        "; ".join(words),
    )


def _latency_plot(result: Result) -> Plot:
    rows = [{"name": "pytorch", "p50_ms": result["pytorch_p50_ms"]}, *result["candidates"]]
    legend = [(0, "P", "pytorch"), *_numbered(result["candidates"])]
    lines = []
    for (color, mark, _), row in zip(legend, rows, strict=True):
        points = page.single(_grid(row["p50_ms"]))
        lengths, p50 = ([point[key] for point in points] for key in ("length", "p50_ms"))
        lines.append(Line(mark, color, lengths, p50))
    grid = _grid(result["pytorch_p50_ms"])
    texts = page.count(grid[0]["batch"], "text")
    return Plot(
        f"Latency of {texts}",
        f"Median milliseconds for {texts} at a time by length in tokens. Both axes are logarithmic. Lower is better.",
        plots.latency(lines),
        legend,
        Table(
            ["p50 ms", *(page.key(point) for point in grid)],
            [[row["name"], *(figure(ms) for ms in row["p50_ms"].values())] for row in rows],
        ),
    )


def _table(candidates: Sequence[Result]) -> Table:
    rows = []
    for row in candidates:
        scores = ["not scored", "", ""]
        if row["value"] is not None:
            low, high = row["drop_interval"]
            scores = [f"{row['value']:.4f}", f"{row['drop']:+.4f}", f"{low:+.3f} to {high:+.3f}"]
        rows.append([row["name"], row["runtime"], *scores, page.megabytes(row["size_bytes"]), row["why"]])
    marked = [row["chosen"] for row in candidates].index(True)
    return Table(["candidate", "runtime", "value", "drop", "95 % interval", "size", "why"], rows, marked, words=6)


def _numbered(candidates: Sequence[Result]) -> list[tuple[int, str, str]]:
    """A numbered legend, for more rows than there are colors; the first color is PyTorch's."""
    return [(number % plots.COLORS, f"{number}", row["name"]) for number, row in enumerate(candidates, start=1)]


def _grid(p50_ms: Mapping[str, float]) -> list[Result]:
    """Convert medians by BATCHxLENGTH to the points of a grid."""
    keys = [(key.split("x"), ms) for key, ms in p50_ms.items()]
    return [{"batch": int(batch), "length": int(length), "p50_ms": ms} for (batch, length), ms in keys]


def _mean(p50_ms: Mapping[str, float]) -> float:
    """The geometric mean of medians, by which candidates are compared."""
    return geometric_mean(p50_ms.values())
