"""What the figures draw: means, slopes, colours, floors that keep out of each other's way."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import report_documents as documents

from baselines import report, report_figures, report_svg


@pytest.fixture(scope="module")
def html() -> str:
    return report.page(documents.full())


def test_a_row_without_a_positive_cost_is_not_drawn_on_a_log_axis() -> None:
    document = documents.full()
    for row, macs in zip(document["rows"], (0, None, float("nan"), -1.0, 0.0), strict=False):
        row["cost"]["train_macs"] = macs
    titles = [one.title for one in report_figures.figures(document, report_svg.looks(document["rows"]))]
    assert titles == ["Learning, by step", "Learning, by training time", "Result against training time",
                      "Attention: time against length"]  # fmt: skip


def _lines(svg: str, width: str) -> list[tuple[str, np.ndarray]]:
    """(colour, (n, 2) corners) of the SVG's lines of one stroke width, in drawing order."""
    found = []
    for path in re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="([^"]*)"', svg):
        if f"stroke-width: {width};" in path[1] + ";":
            colour = re.search(r"stroke: ([^;\"]+)", path[1])
            assert colour is not None
            points = [[float(x) for x in pair] for pair in re.findall(r"[ML] (\S+) (\S+)", path[0])]
            found.append((colour[1], np.array(points)))
    return found


def _affine(drawn: np.ndarray, wanted: np.ndarray) -> float:
    """Largest residual of drawn = a * wanted + b, in points."""
    slope, offset = np.polyfit(wanted, drawn, 1)
    return float(np.abs(slope * wanted + offset - drawn).max())


def test_the_bold_curves_are_the_means_over_seeds() -> None:
    document = documents.full()
    style = report_svg.looks(document["rows"])
    by_step = report_figures.figures(document, style)[0].svg
    drawn = _lines(by_step, "2")
    assert len(drawn) == len(document["curves"])
    wanted_x, wanted_y, drawn_x, drawn_y = [], [], [], []
    for (label, runs), (colour, points) in zip(document["curves"].items(), drawn, strict=True):
        assert colour == style[label].colour
        wanted_x += [point["step"] for point in runs[0]["points"]]
        wanted_y += list(np.mean([[point["value"] for point in run["points"]] for run in runs], axis=0))
        drawn_x += list(points[:, 0])
        drawn_y += list(points[:, 1])
    # one pair of axes for all labels: a swapped label, a wrong mean or a shifted step breaks the straight line
    assert _affine(np.array(drawn_x), np.array(wanted_x)) < 1e-3
    assert _affine(np.array(drawn_y), np.array(wanted_y)) < 1e-3


def test_the_scaling_line_has_the_stated_exponent() -> None:
    document = documents.full()
    for row in document["rows"][:5]:
        row["attention_scaling"]["exponent"] = 1.5 if row["model"] == "neuronsv2" else 0.5
    svg = report_figures.figures(document, report_svg.looks(document["rows"]))[-1].svg
    slopes = [np.diff(points[:, 1])[0] / np.diff(points[:, 0])[0] for _, points in _lines(svg, "1.6")]
    assert len(slopes) == 2  # measured once per model, drawn once per model
    assert slopes[0] / slopes[1] == pytest.approx(3.0, rel=1e-4)


def test_a_row_has_one_colour_and_a_rule_one_line_style() -> None:
    looks = report_svg.looks(documents.full()["rows"])
    assert len(set(looks.values())) == len(looks)
    pc, zil = looks["neuronsv2 / predictive-coding"], looks["neuronsv2 / predictive-coding:variant=zil"]
    other = looks["transformer / predictive-coding"]
    assert pc.colour == zil.colour != other.colour
    assert pc.dash == other.dash != zil.dash
    assert (pc.marker, looks["neuronsv2 / backprop"].dash) == (other.marker, ())


def test_colours_are_the_pages(html: str) -> None:
    svgs = "".join(re.findall(r"<figure.*?</figure>", html, flags=re.S))
    assert set(re.findall(r"#[0-9a-f]{6}\b", svgs)) == set()
    used = set(re.findall(r"var\((--\w+)\)", html))
    for scheme in (
        html.split("@media")[0],
        html.split("prefers-color-scheme: dark")[1].split("* {")[0],
        html.split("@media print")[1],
    ):
        assert used <= set(re.findall(r"(--\w+):", scheme))


def test_the_palette_can_be_told_from_the_page_in_light_and_dark() -> None:
    css = Path(report.__file__).with_name("report_style.css").read_text()
    for scheme in css.split("@media")[0], css.split("prefers-color-scheme: dark")[1].split("* {")[0]:
        colour = dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", scheme))
        card = _luminance(colour["--card"])
        for name, least in [("--ink", 7.0), ("--muted", 4.5), *((f"--m{i}", 2.8) for i in range(report_svg.COLOURS))]:
            low, high = sorted([card, _luminance(colour[name])])
            assert (high + 0.05) / (low + 0.05) >= least, f"{name} on {colour['--card']}"


def _luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    "heights", [[0.5, 0.5, 0.5], [0.0, 0.0, 0.01], [0.98, 0.99, 1.0], [0.0, 0.01, 0.9], [1.0] * 30, []]
)
def test_labels_of_floors_never_overlap(heights: list[float]) -> None:
    placed = [height for height, _ in report_svg.spread([(height, f"f{i}") for i, height in enumerate(heights)])]
    assert all(b - a >= 0.062 - 1e-12 for a, b in itertools.pairwise(placed))
    if len(heights) < 16:
        assert all(0.0 <= height <= 1.0 for height in placed)


def test_a_far_floor_is_named_at_the_edge_and_does_not_flatten_the_figure() -> None:
    document = documents.full() | {"floors": {"near": 0.80, "low": 0.10, "high": 3.0}}
    svg = report_figures.figures(document, report_svg.looks(document["rows"]))[2].svg
    assert [name in svg for name in (">near<", ">↓ low 10<", ">↑ high 300<")] == [True] * 3
    ticks = [float(text) for text in re.findall(r">(\d+)</text>", svg)]
    assert min(tick for tick in ticks if tick > 1) > 60
