"""The figure of a few-shot document: accuracy of every reader with its 95 % interval, episodes as dots.

python -m baselines.fewshot_figure results/fewshot/omniglot-lake.json results/fewshot/omniglot-lake.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def draw(document: dict[str, Any], path: Path) -> None:
    """Writes the SVG; the same bytes for the same document."""
    rows = document["rows"]
    with matplotlib.rc_context({"svg.hashsalt": "fewshot", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 0.34 * len(rows) + 1.1))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            axes.plot(row["values"], [place] * len(row["values"]), ".", color="0.8", markersize=4, zorder=1)
            half = 0.0 if row["high"] is None else row["high"] - row["mean"]
            colour = "tab:blue" if row["reader"].startswith("fast-weights") else "0.3"
            axes.errorbar(row["mean"], place, xerr=half, fmt="o", color=colour, markersize=4, capsize=3)
        axes.axvline(1 / document["way"], color="0.5", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), [row["reader"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("accuracy, with its 95 % t interval over the episodes (dots); dotted: chance")
        told = f"{document['data']}: {document['way']}-way {document['shot']}-shot, no meta-training"
        axes.set_title(f"{told}, {document['episodes']} episodes", fontsize=9, loc="left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Figure of a few-shot document.")
    parser.add_argument("document", type=Path)
    parser.add_argument("svg", type=Path)
    asked = parser.parse_args()
    draw(json.loads(asked.document.read_text()), asked.svg)


if __name__ == "__main__":
    main()
