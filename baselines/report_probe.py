"""The figures of probed runs: energy of each stage over settling, cosine to backprop over training."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from baselines import report_format as fmt
from baselines.report_figures import Drawing, Points, mean_curve
from baselines.report_svg import INK, MUTED, Look, drawing, log_axis, spread

STAGES = 8  # lines in one figure at most


def probe_figures(compare: dict, style: dict[str, Look]) -> list[Drawing]:
    """Every figure that the document's ``probes`` have numbers for."""
    probes = {label: runs for label, runs in (compare.get("probes") or {}).items() if label in style and runs}
    found = [_cosine(probes, style)]
    found += [_energy(label, runs, style[label], number) for number, (label, runs) in enumerate(probes.items())]
    return [one for one in found if one is not None]


def _cosine(probes: dict[str, list[dict]], style: dict[str, Look]) -> Drawing | None:
    """Over all parameters, against the training step: the mean bold, each seed thin."""
    curves: dict[str, list[dict[float, tuple[float, float]]]] = {}
    for label, runs in probes.items():
        known = [found for run in runs if (found := _along(run, "cosine"))]
        if known:
            curves[label] = known
    if not curves:
        return None
    svg: list[str] = []
    with drawing("probe-cosine", svg) as axes:
        for label, known in curves.items():
            look, mean = style[label], mean_curve(known)
            for one in known:
                axes.plot(*_columns(sorted(one.values())), color=look.sentinel, linewidth=0.8, alpha=0.4)
            marker = look.marker if len(mean) < 3 else None  # a line of one or two points is not seen
            axes.plot(*_columns(mean), color=look.sentinel, linewidth=2, dashes=look.dash, marker=marker, zorder=3)
        axes.axhline(1.0, color=MUTED, linewidth=1.1, dashes=(5, 3), zorder=1.5)
        low = min(y for known in curves.values() for one in known for _, y in one.values())
        axes.set_ylim(min(0.0, low) if low < 0.5 else low - 0.05 * (1.02 - low), 1.02)
        axes.set_xlabel("step")
        axes.set_ylabel("cosine to backprop's gradient")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    caption = "Same batch, same weights, all parameters. Bold: mean over seeds; thin: each seed. Dashed grey: backprop."
    return Drawing("How close the gradient is to backprop's", caption, svg[0])


def _along(run: dict, key: str) -> dict[float, tuple[float, float]]:
    """Step -> (step, value) where both were recorded."""
    pairs = [(fmt.finite(point.get("step")), fmt.finite(point.get(key))) for point in run.get("points") or []]
    return {x: (x, y) for x, y in pairs if x is not None and y is not None}


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _energy(label: str, runs: list[dict], look: Look, number: int) -> Drawing | None:
    """Energies of the last probe of the first seed, one line a stage; the loss black, their sum left out."""
    points = [point for point in runs[0].get("points") or [] if len(point.get("energies") or []) > 1]
    if not points:
        return None
    last = points[-1]
    stages = list(zip(*last["energies"], strict=True))  # per stage, then the loss
    hidden = len(stages) - 1
    shown = sorted({round(i * (hidden - 1) / max(STAGES - 1, 1)) for i in range(STAGES)}) if hidden > STAGES else None
    lines = [(f"stage {i + 1}", stages[i]) for i in (range(hidden) if shown is None else shown)]
    drawn = [(name, found) for name, line in lines if (found := _positive(line))]
    loss = _positive(stages[-1])
    values = [e for _, line in [*drawn, ("loss", loss)] for _, e in line]
    if not values:
        return None
    svg: list[str] = []
    with drawing(f"probe-energy-{number}", svg) as axes:
        for index, (_, line) in enumerate(drawn):
            strength = 0.35 + 0.65 * (index + 1) / len(drawn)
            marker = "o" if len(line) == 1 else None
            axes.plot(*_columns(line), color=look.sentinel, alpha=strength, linewidth=1.6, marker=marker, markersize=3)
        axes.plot(*_columns(loss), color=INK, linewidth=1.6)
        log_axis(axes, "y", values, fmt.number)
        _name_ends(axes, [*drawn, ("loss", loss)])
        axes.set_xlabel("settling step")
        axes.set_ylabel("energy per target, log scale")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    told = [f"training step {last.get('step')}, seed {runs[0].get('seed')}"]
    for key, name in (("lambda_max", "largest curvature"), ("rate", "rate"), ("passes", "passes")):
        if fmt.finite(last.get(key)) is not None:
            told.append(f"{name} {fmt.number(last[key])}")
    if last.get("stationarity"):
        told.append(f"{fmt.number(last['stationarity'][-1])} of the driving error is left")
    caption = f"Prediction error of each stage as the states settle, darker towards the loss; {', '.join(told)}."
    return Drawing(f"Settling: {label}", caption, svg[0])


def _positive(line: Sequence[float | None]) -> Points:
    """Step and value where a logarithm exists."""
    return [(float(t), value) for t, e in enumerate(line) if (value := fmt.finite(e)) is not None and value > 0]


def _name_ends(axes: Axes, lines: list[tuple[str, Points]]) -> None:
    """Each line named in the right margin, at the height where it ends."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [(float(to_axes.transform(line[-1])[1]), name) for name, line in lines if line]
    for height, name in spread(heights):
        axes.text(1.015, height, name, transform=axes.transAxes, va="center", size=8, color=MUTED, parse_math=False)
