import io
import re
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from bertline.bench.report import benchmark, candidates, plots

MACHINE = {
    "cpu": "Imagined CPU <9>",
    "cpu_class": "avx2",
    "instruction_sets": ["avx2", "fma"],
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "system": "Linux x86_64",
    "python": "3.11.7",
}
VERSIONS = {"bertline": "0.1.0", "onnxruntime": "1.32.0"}
VOID = {"meta", "link", "br", "img", "input", "hr"}


def system(name: str, factor: float) -> dict[str, Any]:
    grid = [
        {
            "batch": batch,
            "length": length,
            "p50_ms": ms * factor,
            "p90_ms": ms * factor * 1.1,
            "p99_ms": ms * factor * 1.3,
            "texts_per_second": batch * 1000 / ms / factor,
            "repetitions": 100,
        }
        for batch, length, ms in [(1, 16, 5.6), (1, 64, 11.3), (1, 128, 19.3), (1, 512, 83.0), (32, 128, 1007.4)]
    ]
    return {
        "name": name,
        "grid": grid,
        "accuracy": 0.8415,
        "macro_f1": 0.8391,
        "interval": [0.819, 0.864],
        "agreement": 0.985,
        "size_bytes": 23_100_000,
        "peak_rss_bytes": 161_000_000,
        "load_seconds": 0.123,
        "asked_share": None,
    }


RESULT: dict[str, Any] = {
    "machine": MACHINE,
    "task": "text-classification",
    "metrics": ["accuracy", "macro_f1"],
    "systems": [system("pytorch", 1.0), system("onnxruntime-fp32", 0.5), system("<bundle>", 0.21)],
    "speedup": {"onnxruntime-fp32 over pytorch": 2.0, "<bundle> over pytorch": 4.76},
    "threads": 2,
    "texts": 1000,
    "rounds": 3,
    "measured": "2026-01-02T03:04:05+00:00",
    "versions": VERSIONS,
}


def candidate(name: str, factor: float, drop: float, chosen: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "runtime": "onnxruntime",
        "value": 0.85 - drop,
        "drop": drop,
        "drop_interval": [drop - 0.006, drop + 0.006],
        "size_bytes": 23_100_000,
        "p50_ms": {"1x16": 2.1 * factor, "1x128": 8.5 * factor, "32x128": 285.0 * factor},
        "chosen": chosen,
        "why": "the fastest within max_drop" if chosen else f"{name} & others are not",
    }


UNSCORED = candidate("int8-static", 0.9, 0.0) | {"value": None, "drop": None, "drop_interval": None}
EXPORT: dict[str, Any] = {
    "metric": "accuracy",
    "baseline": 0.85,
    "drop": 0.002,
    "pytorch_p50_ms": {"1x16": 5.6, "1x128": 19.3, "32x128": 557.0},
    "fidelity": {"max_abs_logit_diff": 3.2e-6, "texts": 256},
    "candidates": [
        candidate("fp32", 1.0, 0.0),
        candidate("int8", 0.5, 0.002, True),
        candidate("int4", 0.4, 0.05),
        UNSCORED,
    ],
}
MANIFEST: dict[str, Any] = {
    "name": "reviews",
    "max_drop": 0.01,
    "examples": 500,
    "threads": 2,
    "machine": MACHINE,
    "versions": VERSIONS,
    "created": "2026-01-02T03:04:05+00:00",
    "source": {"place": "../run"},
    "notices": ["no fused candidates, for a reason"],
}


class Page(HTMLParser):
    """A page that must be balanced, with its tags, attributes and words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def draw(name: str) -> str:
    if name == "bench":
        return benchmark.html(RESULT, "bertline bench b --html b.html")
    return candidates.html(EXPORT, MANIFEST)


html_of = cache(draw)


@pytest.mark.parametrize("name", ["bench", "export"])
def test_a_page_stands_alone(name: str) -> None:
    html = html_of(name)
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|//|@import", html)
    assert all(value.startswith("#") for key, value in page.attributes if key in ("href", "xlink:href", "src"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


@pytest.mark.parametrize("name", ["bench", "export"])
def test_ids_are_unique_and_all_references_are_met(name: str) -> None:
    html = html_of(name)
    ids = [value for key, value in Page(html).attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'href="#([^"]+)"', html), *re.findall(r"url\(#([^)]+)\)", html)} <= set(ids)


@pytest.mark.parametrize("name", ["bench", "export"])
def test_the_same_figures_give_the_same_page(name: str) -> None:
    assert draw(name) == html_of(name)


def test_the_bench_page_shows_every_figure_of_every_system() -> None:
    words = Page(html_of("bench")).words
    for row in RESULT["systems"]:
        assert row["name"] in words
        for point in row["grid"]:
            for key in ("p50_ms", "p90_ms", "p99_ms", "texts_per_second"):
                assert plots.figure(point[key]) in words
    for text in ("0.8415", "0.8391", "98.5%", "23.1 MB", "161 MB", "0.12 s", "2.0 ×", "4.8 ×"):
        assert text in words
    for text in ("Imagined CPU <9>", "avx2", "onnxruntime 1.32.0", "2026-01-02T03:04:05", "bertline bench b --html"):
        assert text in words


def test_a_99th_percentile_of_few_repetitions_is_not_shown() -> None:
    one = system("one", 1.0)
    shown = plots.figure(one["grid"][0]["p99_ms"])
    assert shown in Page(benchmark.html(RESULT | {"systems": [one], "speedup": {}})).words
    one["grid"][0]["repetitions"] = 99
    words = Page(benchmark.html(RESULT | {"systems": [one], "speedup": {}})).words
    assert shown not in words
    assert "–" in words


def test_the_export_page_shows_every_candidate_and_marks_the_chosen_one() -> None:
    html = html_of("export")
    words = Page(html).words
    for row in EXPORT["candidates"]:
        assert row["why"] in words
        assert all(plots.figure(ms) in words for ms in row["p50_ms"].values())
        assert (f"{row['drop']:+.4f}" if row["drop"] is not None else "not scored") in words
    assert "no fused candidates, for a reason" in words
    assert "4.6 ×" in words  # ∛(5.6 / 1.05 · 19.3 / 4.25 · 557 / 142.5)
    assert re.findall(r'<tr class="marked">\s*<th scope="row">(\w+)', html) == ["int8"]
    assert "var(--warn)" in html  # the line that max_drop draws


def test_all_that_was_scored_is_drawn_and_told_to_those_who_do_not_see_it() -> None:
    html = html_of("export")
    (label,) = [value for key, value in Page(html).attributes if key == "aria-label" and "All candidates" in value]
    assert "PyTorch's 0.8500 in 39.2 ms" in label  # ∛(5.6 · 19.3 · 557)
    assert "int8, chosen 0.8480 at 8.60 ms, 23.1 MB" in label  # ∛(1.05 · 4.25 · 142.5)
    assert "Not scored, and not shown: 1." in label
    assert UNSCORED["name"] not in label
    (svg,) = [one for one in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if 'id="quality-' in one]
    assert set(heights(svg)) == {"1", "2", "3"}


def heights(svg: str) -> dict[str, float]:
    """The labels of a plot's systems, which are written in their colors, and how far down each stands, in points."""
    found = re.findall(r'<text [^>]*fill: var\(--c\d\)" x="[\d.]+" y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    return {text: float(y) for y, text in found}


def test_labels_of_systems_that_are_alike_stand_over_each_other() -> None:
    near = [plots.Bubble(str(n), n, 4 + n / 100, 0.84, (0.83, 0.85), 23_000_000, n == 1) for n in range(1, 4)]
    svg = plots.speed_and_quality([*near, plots.Bubble("9", 4, 40.0, 0.84, (0.83, 0.85), 90_000_000)], "f1", "ms")
    first, second, third, alone = (heights(svg)[label] for label in "1239")
    assert first - second == pytest.approx(plots.GAP, abs=0.1)
    assert second - third == pytest.approx(plots.GAP, abs=0.1)
    assert alone == pytest.approx(first, abs=0.1)


@pytest.mark.parametrize("metric", ["accuracy", "weighted_f1", "matthews_correlation"])
def test_the_terminal_shows_all_in_80_columns(metric: str) -> None:
    systems = [{**row, metric: 0.7654} for row in RESULT["systems"]]
    metrics = list(dict.fromkeys([metric, *RESULT["metrics"]]))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(benchmark.terminal({**RESULT, "systems": systems, "metrics": metrics}))
    text = console.export_text()
    assert "…" not in text
    assert text.count("0.7654") == len(systems)
    for row in systems:
        assert text.count(row["name"]) == 2
        assert all(plots.figure(point["p50_ms"]) in text for point in row["grid"])
    assert "4.76 ×" in text


def test_a_long_name_takes_no_room_from_the_figures() -> None:
    systems = [system("pytorch", 1.0), system(f"pytorch /{'x' * 130}", 0.5)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(benchmark.terminal({**RESULT, "systems": systems, "speedup": {}}))
    text = console.export_text()
    assert "…" not in text
    assert text.count("x") > 260
    for row in systems:
        assert all(plots.figure(point["p50_ms"]) in text for point in row["grid"])


def test_names_of_systems_are_shown_as_they_are() -> None:
    name = r"pytorch /data/[/x]/[old]/:joy:/$\bad$"
    odd = {**RESULT, "systems": [system("pytorch", 1.0), system(name, 0.5)], "speedup": {f"{name} over pytorch": 2.0}}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(benchmark.terminal(odd))
    assert console.export_text().count(name) == 2
    svgs = re.findall("<svg.*?</svg>", benchmark.html(odd), re.DOTALL)
    assert sum(name in svg for svg in svgs) == 2  # the plots with bars


def test_figures_have_three_digits_and_no_exponent() -> None:
    assert [plots.figure(value) for value in (0.0684, 4.321, 19.34, 557.1, 1007.4)] == [
        "0.07",
        "4.32",
        "19.3",
        "557",
        "1,007",
    ]


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    assert plots.spread([10.0, 0.0, 100.0, 10.5], 8) == pytest.approx([8.8, 0.8, 100.0, 16.8], abs=2)
    apart = sorted(plots.spread([1.0, 1.1, 1.2, 1.3, 50.0], 5))
    assert all(high - low >= 4.99 for low, high in pairwise(apart))


def test_the_page_tells_what_share_a_cascades_teacher_was_asked() -> None:
    asked = {**RESULT, "systems": [*RESULT["systems"][:2], {**RESULT["systems"][2], "asked_share": 0.225}]}
    note = "<bundle> is a cascade: 22.5% of these texts went to the larger model."
    assert note in Page(benchmark.html(asked)).words
    assert "cascade" not in Page(html_of("bench")).words
