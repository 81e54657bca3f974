"""The figures of a stream's report: matrices as shaded cells, curves of the tasks, accuracy against memory."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from baselines import report_format as fmt
from baselines.report_figures import Drawing
from baselines.report_svg import COLOURS, MUTED, Look, drawing, log_axis

Document = dict[str, Any]
NUMBERED = 20  # tasks; the cells of a larger matrix are too small to write in
DARKEST = 0.55  # of the accent colour at 100 %: ink stays legible on it, in light and dark


def matrices(document: Document) -> list[str]:
    """One figure a strategy: R with the untrained model above it."""
    cards = []
    for row in document["rows"]:
        own = [result for result in document["results"] if result["strategy"]["label"] == row["label"]]
        untrained = np.mean([result["untrained"] for result in own], axis=0)
        title, acc = str(row["label"]), fmt.metric(row["acc"]["mean"], "acc")
        cards.append(
            f'<figure role="group" aria-label="R of {escape(title)}"><h3>{escape(title)}: ACC {acc}</h3>\n'
            f"{_matrix(np.array(row['R']), untrained, document.get('titles'))}</figure>"
        )
    return cards


def _matrix(R: np.ndarray, untrained: np.ndarray, titles: list[str] | None) -> str:
    """SVG of R (T, T) below ``untrained`` (T,); every number in its cell's title."""
    tasks = len(R)
    high, left, top = 26, 74, 22
    wide = max(26, min(64, 460 // (tasks + 1))) if tasks <= NUMBERED else max(5, 460 // tasks)
    high = high if tasks <= NUMBERED else wide
    marks: list[str] = []
    if tasks <= NUMBERED:
        marks += [_text(left + (j + 0.5) * wide, top - 8, str(j + 1), muted=True) for j in range(tasks)]
    for i, values in enumerate([untrained, *R]):
        y = top + i * high + (4 if i else 0)
        name = "untrained" if i == 0 else f"after {i}"
        if tasks <= NUMBERED or i in (0, 1, tasks):
            marks.append(_text(left - 8, y + high / 2 + 4, name, anchor="end", muted=True))
        for j, value in enumerate(values):
            x, own = left + j * wide, i == j + 1
            named = f"task {j + 1}" + (f" ({titles[j]})" if titles else "")
            frame = ' stroke="var(--ink)" stroke-width="1.6"' if own else ""
            shade = f'fill="var(--accent)" fill-opacity="{DARKEST * value:.3f}"'
            marks.append(
                f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{wide - 2:g}" height="{high - 2:g}" rx="2" {shade}{frame}>'
                f"<title>{name if i else 'untrained'}, on {escape(named)}: {100 * value:.2f} %</title></rect>"
            )
            if tasks <= NUMBERED:
                marks.append(_text(x + wide / 2, y + high / 2 + 4, f"{100 * value:.0f}", muted=j >= i))
    width, height = left + tasks * wide + 4, top + (tasks + 1) * high + 8
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{1.25 * width:.0f}px" role="img" '
        f'aria-label="matrix of accuracies">{"".join(marks)}</svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", muted: bool = False) -> str:
    ink = "muted" if muted else "ink"
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="12" fill="var(--{ink})" pointer-events="none">'
        f"{text}</text>"
    )


def figures(document: Document, style: dict[str, Look]) -> list[Drawing]:
    """Accuracy as tasks come, accuracy against memory, and the curves between where they were asked for."""
    return [_so_far(document, style), _memory(document, style), *_curves(document)]


def _so_far(document: Document, style: dict[str, Look]) -> Drawing:
    """mean_{j <= i} R[i, j] against i."""
    svg: list[str] = []
    with drawing("so-far", svg) as axes:
        for row in document["rows"]:
            look, R = style[row["label"]], 100 * np.array(row["R"])
            means = [R[i, : i + 1].mean() for i in range(len(R))]
            marker = look.marker if len(R) <= NUMBERED else None
            axes.plot(
                range(1, len(R) + 1), means, color=look.sentinel, linewidth=1.8, dashes=look.dash, marker=marker,
                markersize=5,
            )  # fmt: skip
        axes.set_xlabel("tasks trained")
        axes.set_ylabel("accuracy on them (%)")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return Drawing("Accuracy on the tasks so far", "Mean over the tasks trained so far, and over seeds.", svg[0])


def _memory(document: Document, style: dict[str, Look]) -> Drawing:
    svg: list[str] = []
    spots = [(row, sum(row["memory"].values())) for row in document["rows"]]
    with drawing("memory", svg) as axes:
        for row, kept in spots:
            look, (mean, low, high) = style[row["label"]], (row["acc"][key] for key in ("mean", "low", "high"))
            if low is not None:
                axes.plot([kept, kept], [100 * low, 100 * high], color=look.sentinel, linewidth=1.4)
            axes.plot([kept], [100 * mean], look.marker, color=look.sentinel, markersize=8, zorder=4)
        log_axis(axes, "x", [kept for _, kept in spots], fmt.size)
        axes.set_xlabel("weights, state and buffer (bytes), log scale")
        axes.set_ylabel("ACC (%)")
    caption = "All that is kept after the last task. Bar: 95 % t interval. Up and left is better."
    return Drawing("Accuracy against memory", caption, svg[0])


def _curves(document: Document) -> list[Drawing]:
    """Accuracy on every task at each evaluation, mean over seeds, a figure a strategy; nothing without ``--every``."""
    found = []
    for number, row in enumerate(document["rows"]):
        own = [result for result in document["results"] if result["strategy"]["label"] == row["label"]]
        curves = [result["curve"] for result in own if result.get("curve")]
        if not curves:
            continue
        points = [(p["step"], p["during"]) for p in curves[0]]
        means = [100 * np.mean([curve[n]["accuracies"] for curve in curves], axis=0) for n in range(len(points))]
        svg: list[str] = []
        with drawing(f"curve-{number}", svg) as axes:
            for (_, during), before in zip(points[1:], points, strict=False):
                if during != before[1]:
                    axes.axvline(before[0], color=MUTED, linewidth=0.8, dashes=(3, 3), zorder=1)
            for task in range(document["tasks"]):
                line = [
                    (step, mean[task]) for (step, during), mean in zip(points, means, strict=True) if during >= task
                ]
                if not line:
                    continue
                look = Look(task, task // COLOURS)
                axes.plot(*zip(*line, strict=True), color=look.sentinel, linewidth=1.5, dashes=look.dash)
                axes.text(
                    line[0][0], 103, str(task + 1), size=8, color=look.sentinel, ha="left", va="bottom",
                    clip_on=False, weight="bold",
                )  # fmt: skip
            axes.set_ylim(-2, 102)
            axes.set_xlabel("step")
            axes.set_ylabel("accuracy (%)")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: fmt.count(x)))
        caption = (
            "A line a task, numbered where it begins; dashed: a new task begins. A fall that is made good later is the "
            "stability gap."
        )
        found.append(Drawing(f"Each task, by step: {row['label']}", caption, svg[0]))
    return found
