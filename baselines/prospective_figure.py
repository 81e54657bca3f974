"""The figure of ``neurons prospective``: error over training on both tasks, and the error at every rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COLOURS = {"predictive-coding": "tab:blue", "backprop": "tab:red"}


def draw(document: dict[str, Any], path: Path) -> None:
    """Writes the SVG; the same bytes for the same document."""
    setting = document["setting"]
    with matplotlib.rc_context({"svg.hashsalt": "prospective", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9.0, 3.2))
        FigureCanvasSVG(figure)
        course, levels, grid = figure.subplots(1, 3, width_ratios=[5, 2, 3])
        for start in range(setting["block"], setting["iterations"], 2 * setting["block"]):
            end = min(start + setting["block"], setting["iterations"])
            course.axvspan(start + 0.5, end + 0.5, color="0.93", linewidth=0)
        for place, row in enumerate(document["rows"]):
            colour, curve = COLOURS[row["rule"]], np.asarray(row["curve"])
            steps = np.arange(1, len(curve) + 1)
            course.plot(steps, curve.mean(1), color=colour, label=row["rule"])
            for task, style in enumerate(("--", ":")):
                course.plot(steps, curve[:, task], style, color=colour, linewidth=0.7, alpha=0.7)
            levels.plot([place] * len(row["values"]), row["values"], ".", color="0.8", markersize=4, zorder=1)
            half = 0.0 if row["error"]["high"] is None else row["error"]["high"] - row["error"]["mean"]
            levels.errorbar(place, row["error"]["mean"], yerr=half, fmt="o", color=colour, markersize=4, capsize=3)
        course.set_xlabel("iteration; dashed, dotted: first and second task, the second in training where shaded")
        course.xaxis.label.set_fontsize(7)
        course.set_ylabel("test error")
        course.legend(frameon=False, fontsize=8)
        for pair in zip(*(row["values"] for row in document["rows"]), strict=True):
            levels.plot([0, 1], pair, color="0.85", linewidth=0.5, zorder=0)
        levels.set_xticks([0, 1], [row["rule"].replace("-", "\n") for row in document["rows"]])
        levels.set_xlim(-0.5, 1.5)
        levels.set_title("mean over training, each seed", fontsize=8, loc="left")
        for row in document["grid"]:
            colour = COLOURS[row["rule"]]
            pairs = sorted(zip(row["rates"], row["held_out_error"], strict=True))
            kept = [(rate, error) for rate, error in pairs if error is not None and np.isfinite(error)]
            grid.plot(*zip(*kept, strict=True), ".-", color=colour)
        grid.set_xscale("log")
        grid.xaxis.set_minor_formatter(NullFormatter())
        grid.set_xlabel("learning rate (sum over a batch)")
        grid.set_title("held-out error, same grid for both", fontsize=8, loc="left")
        course.set_title(
            f"{setting['data']}, two tasks in turns; mean of {setting['seeds']} seeds", fontsize=9, loc="left"
        )
        for axes in (course, levels, grid):
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
