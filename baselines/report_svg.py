"""How a report draws: matplotlib axes that become inline SVG, the same bytes for the same numbers.

Colours are sentinels that turn into CSS variables, so one drawing follows the page from light to dark. Model i has the
colour ``--m{i}``; a rule has a dash pattern and a marker. Both hold in every figure of a page.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from baselines import report_format as fmt

COLOURS = 8
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1, 1.4), (6, 1.6, 1, 1.6), (8, 2.5), (3, 1.2, 1, 1.2, 1, 1.2))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
INK, LINE, MUTED = "#0100f0", "#0100f1", "#0100f2"
_VARIABLES = {INK: "--ink", LINE: "--line", MUTED: "--muted"} | {f"#0200{i:02x}": f"--m{i}" for i in range(COLOURS)}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Look:
    """How a row is drawn everywhere: ``model`` numbers its colour, ``rule`` its dashes and its marker."""

    model: int
    rule: int

    @property
    def dash(self) -> tuple[float, ...]:
        """On and off lengths in line widths; empty for a solid line."""
        return DASHES[self.rule % len(DASHES)]

    @property
    def marker(self) -> str:
        """matplotlib's marker."""
        return MARKERS[self.rule % len(MARKERS)]

    @property
    def sentinel(self) -> str:
        """The colour to give matplotlib."""
        return f"#0200{self.model % COLOURS:02x}"

    @property
    def colour(self) -> str:
        """The colour to write into HTML."""
        return f"var(--m{self.model % COLOURS})"


def looks(rows: Sequence[dict]) -> dict[str, Look]:
    """Label -> look; models and rules are numbered by first appearance."""
    models = list(dict.fromkeys(str(row.get("model")) for row in rows))
    rules = list(dict.fromkeys(fmt.rule_of(row) for row in rows))
    return {row["label"]: Look(models.index(str(row.get("model"))), rules.index(fmt.rule_of(row))) for row in rows}


@contextmanager
def drawing(name: str, into: list[str]) -> Iterator[Axes]:
    """Axes to draw on; on leaving, their SVG is appended to ``into``. ``name`` makes its ids unique on the page."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the page
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["svg.hashsalt"] = name
        # The page's own fonts show the text; what DejaVu lacks matters only to the width that is reserved for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(5.0, 3.3), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot()
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        into.append(_inline(sink.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """No prologue, comments or name spaces; ids of its own; colours and width from the page's CSS."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg\b[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    for sentinel, variable in _VARIABLES.items():
        svg = svg.replace(sentinel, f"var({variable})")
    return svg.strip()


def draw_floors(axes: Axes, floors: dict[str, float]) -> None:
    """Dashed lines named in the right margin; one far outside the data is named at the edge, or it would flatten it."""
    low, high = axes.get_ylim()
    span = high - low
    near = {name: y for name, y in floors.items() if low - 1.5 * span <= y <= high + 1.5 * span}
    if near:
        low, high = min(low, *near.values()), max(high, *near.values())
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
        axes.set_ylim(low, high)
    labels = [((y - low) / (high - low), name) for name, y in near.items()]
    labels += [(0.0, f"↓ {name} {fmt.number(y)}") for name, y in floors.items() if name not in near and y < low]
    labels += [(1.0, f"↑ {name} {fmt.number(y)}") for name, y in floors.items() if name not in near and y > high]
    for y in near.values():
        axes.axhline(y, color=MUTED, linewidth=1.1, dashes=(5, 3), zorder=1.5)
    for height, text in spread(labels):
        axes.text(1.015, height, text, transform=axes.transAxes, va="center", size=8, color=MUTED, parse_math=False)


def spread(labels: list[tuple[float, str]], gap: float = 0.062) -> list[tuple[float, str]]:
    """Labels sorted by height and moved apart to at least ``gap``, the topmost not above 1 where they fit under it."""
    labels = sorted(labels)
    heights: list[float] = []
    for height, _ in labels:
        heights.append(max(height, heights[-1] + gap) if heights else height)
    ceiling = max(1.0, gap * (len(labels) - 1))
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - gap
    return [(height, text) for height, (_, text) in zip(heights, labels, strict=True)]


def log_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float], text: Callable[[float], str]) -> None:
    """Make an axis logarithmic around positive ``values``, with few ticks, each written by ``text``."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    margin = max(1.25, (max(values) / min(values)) ** 0.08)
    limits = {"left" if which == "x" else "bottom": min(values) / margin, "right" if which == "x" else "top": 0.0}
    limits["right" if which == "x" else "top"] = max(values) * margin
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(**limits)
    decades = math.log10(max(values) / min(values) * margin**2)
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.6 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=9) if decades > 0.7 else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
