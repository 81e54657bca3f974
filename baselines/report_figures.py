"""The figures of a report: learning curves, the primary value against cost, time of the attention against length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from baselines import report_format as fmt
from baselines.report_svg import Look, draw_floors, drawing, log_axis

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Drawing:
    """One figure; ``svg`` goes into the page as it is."""

    title: str
    caption: str
    svg: str


def figures(compare: dict, style: dict[str, Look]) -> list[Drawing]:
    """Every figure that the document has numbers for."""
    metric = str(fmt.dig(compare, "primary", "name"))
    scale = 100.0 if fmt.is_fraction(metric) else 1.0
    floors = {
        name: scale * known
        for name, value in (compare.get("floors") or {}).items()
        if (known := fmt.finite(value)) is not None
    }
    name = f"{metric} (%)" if fmt.is_fraction(metric) else fmt.words(metric)
    better = "Up" if fmt.dig(compare, "primary", "higher_is_better") else "Down"
    found = [
        _learning(compare, style, "step", name, scale, floors),
        _learning(compare, style, "seconds", name, scale, floors),
        _cost(compare, style, ("cost", "train_macs"), name, scale, floors, better),
        _cost(compare, style, ("train", "seconds"), name, scale, floors, better),
        _scaling(compare, style),
    ]
    return [one for one in found if one is not None]


def curve(run: dict, along: str) -> dict[float, tuple[float, float]]:
    """Step -> (x, held-out value) where both were recorded; ``along`` is 'step' or 'seconds'."""
    found = {}
    for point in run.get("points") or []:
        step, x, value = (fmt.finite(point.get(key)) for key in ("step", along, "value"))
        if step is not None and x is not None and value is not None:
            found[step] = (x, value)
    return found


def mean_curve(curves: list[dict[float, tuple[float, float]]]) -> Points:
    """Mean x and mean value at the steps that every seed reached."""
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return [
        (sum(one[step][0] for one in curves) / len(curves), sum(one[step][1] for one in curves) / len(curves))
        for step in shared
    ]


def _learning(
    compare: dict, style: dict[str, Look], along: str, name: str, scale: float, floors: dict[str, float]
) -> Drawing | None:
    """Held-out value against step or training time: the mean bold, each seed thin."""
    curves = {}
    for label, runs in (compare.get("curves") or {}).items():
        known = [found for run in runs or [] if (found := curve(run, along))]
        if known and label in style:
            curves[label] = known
    longest = max((x for known in curves.values() for one in known for x, _ in one.values()), default=None)
    if longest is None:
        return None
    unit, factor = ("step", 1.0) if along == "step" else _time_unit(longest)
    svg: list[str] = []
    with drawing(f"curve-{along}", svg) as axes:

        def line(points: Points, **kwargs: object) -> None:
            axes.plot([factor * x for x, _ in points], [scale * y for _, y in points], **kwargs)  # type: ignore[arg-type]

        for label, known in curves.items():
            look, mean = style[label], mean_curve(known)
            for one in known:
                line(sorted(one.values()), color=look.sentinel, linewidth=0.8, alpha=0.4)
            marker = look.marker if len(mean) < 3 else None  # a line of one or two points is not seen
            line(mean, color=look.sentinel, linewidth=2, dashes=look.dash, marker=marker, zorder=3)
        axes.set_xlabel(unit)
        axes.set_ylabel(f"held-out {name}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=along == "step"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: fmt.count(x)))
        _open(axes, scale)
        draw_floors(axes, floors)
    title = "Learning, by step" if along == "step" else "Learning, by training time"
    seeds = "Bold: mean over seeds, where all were measured; thin: each seed. Dashed grey: floors, on the test split."
    return Drawing(title, seeds, svg[0])


def _open(axes: Axes, scale: float) -> None:
    """Values that are all but equal must not be spread over the whole height."""
    low, high = axes.get_ylim()
    least = 0.01 * scale if scale > 1 else 0.02 * max(abs(low), abs(high))
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def _time_unit(longest: float) -> tuple[str, float]:
    if longest > 7200:
        return "training time (h)", 1 / 3600
    return ("training time (min)", 1 / 60) if longest > 180 else ("training time (s)", 1.0)


def _cost(
    compare: dict,
    style: dict[str, Look],
    at: tuple[str, str],
    name: str,
    scale: float,
    floors: dict[str, float],
    up: str,
) -> Drawing | None:
    """The primary value with its interval and every seed, against what training cost on a log axis."""
    dots = []
    for row in compare.get("rows") or []:
        x, y = fmt.finite(fmt.dig(row, *at)), fmt.finite(fmt.dig(row, "value", "mean"))
        if row.get("unsupported") is None and x is not None and x > 0 and y is not None:
            dots.append((row, x, scale * y))
    if not dots:
        return None
    compute = at[1] == "train_macs"
    unit, factor = ("multiply-accumulates of training", 1.0) if compute else _time_unit(max(x for _, x, _ in dots))
    dots = [(row, factor * x, y) for row, x, y in dots]
    svg: list[str] = []
    with drawing(f"cost-{at[1].replace('_', '-')}", svg) as axes:
        for row, x, y in dots:
            look = style[row["label"]]
            low, high = (fmt.finite(fmt.dig(row, "value", end)) for end in ("low", "high"))
            if low is not None and high is not None:
                axes.plot([x, x], [scale * low, scale * high], color=look.sentinel, linewidth=1.4)
            seeds = [scale * value for value in fmt.values(row)]
            axes.plot([x] * len(seeds), seeds, "o", color=look.sentinel, markersize=3, alpha=0.5, linestyle="none")
            face = "none" if row.get("control") else look.sentinel
            axes.plot([x], [y], look.marker, color=look.sentinel, markerfacecolor=face, markersize=8, zorder=4)
        log_axis(axes, "x", [x for _, x, _ in dots], fmt.count)
        axes.set_xlabel(f"{unit}, log scale")
        axes.set_ylabel(f"test {name}")
        _open(axes, scale)
        draw_floors(axes, floors)
    caption = f"Marker: mean, hollow for a control; bar: 95 % t interval; dots: seeds. {up} and left is better."
    return Drawing(f"Result against {'compute' if compute else 'training time'}", caption, svg[0])


def _scaling(compare: dict, style: dict[str, Look]) -> Drawing | None:
    """Measured seconds against length, log-log, and the power law of the stated exponent; once per model."""
    lines: dict[str, tuple[Look, Points, float | None, str]] = {}
    for row in compare.get("rows") or []:
        found = fmt.dig(row, "attention_scaling")
        pairs = zip(fmt.dig(found, "lengths") or (), fmt.dig(found, "seconds") or (), strict=False)  # type: ignore[call-overload]
        points = [(n, s) for a, b in pairs if (n := fmt.finite(a)) and (s := fmt.finite(b)) and n > 0 and s > 0]
        exponent, low, high = (fmt.finite(fmt.dig(found, key)) for key in ("exponent", "low", "high"))
        if points:
            told = f"{row.get('model')}: time ∝ length^{fmt.number(exponent)}" if exponent is not None else ""
            told += f" [{fmt.number(low)}, {fmt.number(high)}]" if told and low is not None and high is not None else ""
            lines.setdefault(str(row.get("model")), (style[row["label"]], sorted(points), exponent, told))
    if not lines:
        return None
    svg: list[str] = []
    with drawing("scaling", svg) as axes:
        for look, points, exponent, _ in lines.values():
            axes.plot(*zip(*points, strict=True), "o", color=look.sentinel, markersize=5)
            if exponent is not None:
                centre = [sum(math.log(point[i]) for point in points) / len(points) for i in (0, 1)]
                ends = [points[0][0], points[-1][0]]
                fit = [math.exp(centre[1] + exponent * (math.log(n) - centre[0])) for n in ends]
                axes.plot(ends, fit, color=look.sentinel, linewidth=1.6)
        log_axis(axes, "x", [n for _, points, *_ in lines.values() for n, _ in points], fmt.count)
        log_axis(axes, "y", [s for _, points, *_ in lines.values() for _, s in points], fmt.seconds)
        axes.set_xlabel("sequence length (tokens), log scale")
        axes.set_ylabel("time of the attention, log scale")
    caption = "; ".join(told for *_, told in lines.values() if told)
    return Drawing("Attention: time against length", f"Markers: measured; lines: fit. {caption}".strip(), svg[0])
