"""The tables of the page: results, cost, paired differences and runs, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from baselines import report_format as fmt
from baselines import report_table as table
from baselines.report_svg import Look

_MARKER_PATHS = {
    "o": "M22 3.2a3.8 3.8 0 1 0 .01 0z",
    "s": "M18.6 3.6h6.8v6.8h-6.8z",
    "^": "M22 2.8l4.2 7.6h-8.4z",
    "D": "M22 2.2l4.6 4.8-4.6 4.8-4.6-4.8z",
    "v": "M22 11.2l4.2-7.6h-8.4z",
    "P": "M20.4 2.6h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2v-2.8h-2.8v-3.2h2.8z",
    "X": "M19.4 2.4l2.6 2.6 2.6-2.6 2 2-2.6 2.6 2.6 2.6-2 2-2.6-2.6-2.6 2.6-2-2 2.6-2.6-2.6-2.6z",
    "p": "M22 2.6l4.4 3.2-1.7 5.2h-5.4l-1.7-5.2z",
}


def swatch(look: Look) -> str:
    """Line and marker of a row, as every figure draws it."""
    dash = " ".join(f"{2 * length:g}" for length in look.dash)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        '<svg class="swatch" viewBox="0 0 44 14" width="44" height="14" aria-hidden="true">'
        f'<path d="M1 7h42" fill="none" stroke="{look.colour}" stroke-width="2"{dashes}/>'
        f'<path d="{_MARKER_PATHS[look.marker]}" fill="{look.colour}"/></svg>'
    )


def _label(row: dict, look: Look) -> str:
    marks = ["control"] if row.get("control") else []
    marks += ["local"] if row.get("local") else []
    badges = "".join(f'<span class="badge {mark}">{mark}</span>' for mark in marks)
    return f'<th scope="row">{swatch(look)}<span class="name">{escape(str(row["label"]))}</span>{badges}</th>'


def sheet(name: str, heads: Iterable[tuple[str, str]], lines: Iterable[str]) -> str:
    """A table that scrolls on a narrow screen: (head, hint) pairs and finished rows."""
    head, body = "".join(_head_cell(text, hint) for text, hint in heads), "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table id="{name}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _line(row: dict, look: Look, cells: str, width: int) -> str:
    if row.get("unsupported") is not None:
        cells = f'<td class="reason" colspan="{width}">n/a: {escape(str(row["unsupported"]))}</td>'
    kind = ' class="control"' if row.get("control") else ""
    return f"<tr{kind}>{_label(row, look)}{cells}</tr>"


def results(compare: dict, style: dict[str, Look]) -> str:
    """Primary value, difference to the reference row, parameters and faithfulness to backprop; floors below."""
    metric = str(fmt.dig(compare, "primary", "name"))
    base = table.reference(compare)
    head = [("", ""), (fmt.words(metric).capitalize(), "test; 95 % interval; seeds")]
    head += [("", "dashed: floors"), ("Held out", "selects")]
    head += [(difference_head(metric), f"against {base}, paired by seed")] if base else []
    head += [(column.head, column.hint) for column in table.LEARNING]
    width = len(head) - 1
    lines = []
    for row in compare.get("rows") or []:
        value = row.get("value")
        seeds = " · ".join(fmt.metric(seed, metric, unit=False) for seed in fmt.values(row))
        spread = fmt.interval(fmt.dig(value, "low"), fmt.dig(value, "high"), metric)
        mean = fmt.dig(value, "mean")
        cells = cell(fmt.metric(mean, metric), "value", mean, [spread, seeds]) + _strip(row, compare)
        held_out = fmt.dig(row, "held_out", "mean")
        cells += cell(fmt.metric(held_out, metric), "held_out", held_out)
        if base:
            pair = table.to_reference(compare, row["label"])
            if row["label"] == base:
                cells += '<td data-key="difference" class="none">reference</td>'
            else:
                gap = fmt.dig(pair, "difference")
                spread = fmt.interval(fmt.dig(pair, "low"), fmt.dig(pair, "high"), metric, signed=True)
                cells += cell(fmt.difference(gap, metric), "difference", gap, [spread])
        cells += "".join(_column_cell(row, column) for column in table.LEARNING)
        lines.append(_line(row, style[row["label"]], cells, width))
    for floor, value in (compare.get("floors") or {}).items():
        name = f'<th scope="row"><span class="name">{escape(floor)}</span><span class="badge">floor</span></th>'
        drawn = _strip({"value": {"mean": value}}, compare)
        rest = f'<td colspan="{width - 2}"></td>'
        lines.append(f'<tr class="floor">{name}{cell(fmt.metric(value, metric), "value", value)}{drawn}{rest}</tr>')
    return sheet("results", head, lines)


def cost(compare: dict, style: dict[str, Look]) -> str:
    """Time, compute, memory, and how the attention grows with length."""
    lines = []
    for row in compare.get("rows") or []:
        cells = "".join(_column_cell(row, column) for column in table.COST)
        lines.append(_line(row, style[row["label"]], cells, len(table.COST)))
    return sheet("cost", [("", ""), *((column.head, column.hint) for column in table.COST)], lines)


def memory(compare: dict, style: dict[str, Look]) -> str:
    """Bars of saved activations and of peak memory, or nothing."""
    charts = []
    for key, title in (("saved_activation_bytes", "Saved activations"), ("peak_bytes", "Peak memory")):
        known = [(row, fmt.finite(fmt.dig(row, "memory", key))) for row in compare.get("rows") or []]
        bars = [(row, size) for row, size in known if size is not None and row.get("unsupported") is None]
        most = max((size for _, size in bars), default=0.0)
        if most <= 0:
            continue
        items = "".join(
            f"<li><span>{escape(str(row['label']))}</span><b>{fmt.size(size)}</b>"
            f'<i style="width:{100 * size / most:.1f}%;background:{style[row["label"]].colour}"></i></li>'
            for row, size in bars
        )
        charts.append(f'<figure><h3>{title}</h3><ul class="bars">{items}</ul></figure>')
    return f'<div class="grid">{"".join(charts)}</div>' if charts else ""


def difference_head(metric: str) -> str:
    """The head of a column of differences, with their unit."""
    return "Difference, points" if fmt.is_fraction(metric) else "Difference"


def pairs(compare: dict) -> str:
    """Every paired difference that was tested, or nothing."""
    metric = str(fmt.dig(compare, "primary", "name"))
    head = [("Pair", ""), (difference_head(metric), "first minus second, mean over seeds"), ("95 % t interval", "")]
    head += [("Seeds", "shared by both"), ("p", "paired t, two-sided")]
    lines = [
        f'<tr><th scope="row"><span class="name">{escape(str(pair["a"]))} <i>minus</i> {escape(str(pair["b"]))}'
        "</span></th>"
        + cell(fmt.difference(pair.get("difference"), metric), "difference", pair.get("difference"))
        + cell(fmt.interval(pair.get("low"), pair.get("high"), metric, signed=True) or fmt.NOTHING, "interval")
        + cell(str(pair.get("n", fmt.NOTHING)), "n")
        + cell(fmt.number(pair.get("p")), "p", pair.get("p"))
        + "</tr>"
        for pair in compare.get("pairs") or []
    ]
    return sheet("pairs", head, lines) if lines else ""


def runs(compare: dict) -> str:
    """One line per run: its value, how it ended, what it warned of; or nothing."""
    metric = str(fmt.dig(compare, "primary", "name"))
    names = ("Run", "Seed", fmt.words(metric).capitalize(), "Steps", "Time", "Stopped by", "Warnings")
    lines = []
    for run in compare.get("results") or []:
        name = str(run.get("label") or f"{fmt.dig(run, 'model', 'name')} / {fmt.dig(run, 'rule', 'name')}")
        value, steps, time = (
            fmt.dig(run, *at) for at in (("primary", "value"), ("train", "steps"), ("train", "seconds"))
        )
        lines.append(
            f'<tr><th scope="row"><span class="name">{escape(name)}</span></th>'
            + cell(str(run.get("seed")), "seed")
            + cell(fmt.metric(value, metric), "value", value)
            + cell(fmt.number(steps), "steps", steps)
            + cell(fmt.seconds(time), "seconds", time)
            + cell(str(run.get("stopped_by") or run.get("status") or fmt.NOTHING), "stopped_by")
            + f'<td class="reason">{escape("; ".join(map(str, run.get("warnings") or [])))}</td></tr>'
        )
    return sheet("runs", [(name, "") for name in names], lines) if lines else ""


def cell(text: str, key: str, exact: object = None, below: Sequence[str] = ()) -> str:
    """One ``<td>``: the written number, the exact one in its ``title``, smaller lines below it."""
    title = f' title="{escape(repr(exact))}"' if fmt.finite(exact) is not None else ""
    lines = "".join(f"<small>{escape(line)}</small>" for line in below if line)
    kind = ' class="none"' if text == fmt.NOTHING else ""
    return f'<td data-key="{key}"{kind}{title}>{escape(text)}{lines}</td>'


def _column_cell(row: dict, column: table.Column) -> str:
    """The cell of ``column`` in ``row``."""
    exact = fmt.dig(row, *column.at)
    below = []
    if column.at[0] == "attention_scaling":
        low, high = (fmt.finite(fmt.dig(row, "attention_scaling", end)) for end in ("low", "high"))
        below = [] if low is None or high is None else [f"[{fmt.number(low)}, {fmt.number(high)}]"]
    if column.at[0] == "cosine_to_backprop":
        start = fmt.dig(row, "cosine_to_backprop", "start")
        below = [] if fmt.finite(start) is None else [f"untrained {fmt.number(start)}"]
    return cell(column.show(exact), ".".join(column.at), exact, below)


def _head_cell(text: str, hint: str = "") -> str:
    """One ``<th scope=col>`` with its explanation below."""
    return f'<th scope="col">{escape(text)}' + (f"<small>{escape(hint)}</small>" if hint else "") + "</th>"


def _strip(row: dict, compare: dict) -> str:
    """A small drawing of mean, t interval and seeds on one scale for the whole table; floors nearby are grey ticks."""
    low, high = _extent(compare)
    value = row.get("value")
    mean = fmt.finite(fmt.dig(value, "mean"))
    if mean is None or high <= low:
        return "<td></td>"

    def x(at: float) -> str:
        return f"{6 + 128 * (at - low) / (high - low):.1f}"

    marks = [
        f'<line class="floor" x1="{x(y)}" x2="{x(y)}" y1="2" y2="22"/>'
        for y in _floor_values(compare)
        if low <= y <= high
    ]
    ends = [fmt.finite(fmt.dig(value, end)) for end in ("low", "high")]
    if ends[0] is not None and ends[1] is not None:
        marks.append(f'<line class="bar" x1="{x(ends[0])}" x2="{x(ends[1])}" y1="12" y2="12"/>')
    marks += [f'<circle class="seed" cx="{x(seed)}" cy="12" r="2.2"/>' for seed in fmt.values(row)]
    marks.append(f'<line class="mean" x1="{x(mean)}" x2="{x(mean)}" y1="6" y2="18"/>')
    svg = f'<svg viewBox="0 0 140 24" width="140" height="24" aria-hidden="true">{"".join(marks)}</svg>'
    return f'<td class="strip">{svg}</td>'


def _floor_values(compare: dict) -> list[float]:
    return [known for value in (compare.get("floors") or {}).values() if (known := fmt.finite(value)) is not None]


def _extent(compare: dict) -> tuple[float, float]:
    """Range of everything drawn; a floor more than one span outside the rows is left out, or it would flatten them."""
    points: list[float] = []
    for row in compare.get("rows") or []:
        ends = (fmt.finite(fmt.dig(row, "value", key)) for key in ("mean", "low", "high"))
        points += [*(end for end in ends if end is not None), *fmt.values(row)]
    if not points:
        return 0.0, 0.0
    low, high = min(points), max(points)
    span = high - low
    near = [value for value in _floor_values(compare) if low - span <= value <= high + span]
    return min([low, *near]), max([high, *near])
