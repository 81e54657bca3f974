"""The table of a model taken apart: what each component is worth, as HTML."""

from __future__ import annotations

from html import escape

from baselines import report_format as fmt
from baselines.ablations import outcome
from baselines.report_rows import cell, difference_head, sheet


def table(compare: dict) -> str:
    """A line for each full model and, the most useful first, for each of its components; or nothing."""
    block = compare.get("ablations")
    if not block:
        return ""
    metric = str(fmt.dig(compare, "primary", "name"))
    head = [("Component", ""), ("Without it", f"test {fmt.words(metric)}; 95 % interval")]
    head += [(difference_head(metric), "full minus without"), ("95 % t interval", ""), ("", "dashed: no difference")]
    head += [("Outcome", ""), ("Seeds", "shared"), ("p", "paired t, two-sided"), ("Parameters", "no embeddings")]
    head += [("Training", "wall time")]
    rows = {row["label"]: row for row in compare.get("rows") or []}
    span = _span(block["components"])
    lines, shown = [], set()
    for one in block["components"]:
        if one["full"] not in shown:
            shown.add(one["full"])
            lines.append(_full(one, rows.get(one["full"], {}), metric))
        lines.append(_line(one, rows.get(one["without"], {}), metric, span))
    return sheet("ablations", head, lines)


def _value(row: dict, metric: str) -> str:
    value = row.get("value")
    mean = fmt.dig(value, "mean")
    return cell(
        fmt.metric(mean, metric), "value", mean, [fmt.interval(fmt.dig(value, "low"), fmt.dig(value, "high"), metric)]
    )


def _cost(one: dict, side: str) -> str:
    parameters, seconds = (fmt.dig(one, key, side) for key in ("parameters", "train_seconds"))
    return cell(fmt.count(parameters), "parameters", parameters) + cell(fmt.seconds(seconds), "seconds", seconds)


def _full(one: dict, row: dict, metric: str) -> str:
    name = f'<th scope="row"><span class="name">{escape(one["full"])}</span><span class="badge">full model</span></th>'
    return f'<tr class="full">{name}{_value(row, metric)}<td colspan="6"></td>{_cost(one, "full")}</tr>'


def _line(one: dict, row: dict, metric: str, span: float) -> str:
    name = f'<tr><th scope="row"><span class="name">{escape(one["component"])}</span></th>'
    if row.get("unsupported") is not None:
        return f'{name}<td class="reason" colspan="9">n/a: {escape(str(row["unsupported"]))}</td></tr>'
    verdict = "earns" if one["earns"] else "harms" if one["harms"] else "none"
    return (
        name
        + _value(row, metric)
        + cell(fmt.difference(one["difference"], metric), "difference", one["difference"])
        + cell(fmt.interval(one["low"], one["high"], metric, signed=True) or fmt.NOTHING, "interval")
        + _drawn(one, span)
        + f'<td data-key="outcome" class="outcome {verdict}">{outcome(one)}</td>'
        + cell(str(one["n"]), "n")
        + cell(fmt.number(one["p"]), "p", one["p"])
        + _cost(one, "without")
        + "</tr>"
    )


def _ends(one: dict) -> list[float]:
    return [known for key in ("low", "difference", "high") if (known := fmt.finite(one[key])) is not None]


def _span(components: list[dict]) -> float:
    """The largest distance from no difference, so that one scale serves the whole table."""
    return max((abs(end) for one in components for end in _ends(one)), default=0.0)


def _drawn(one: dict, span: float) -> str:
    """The difference and its interval beside a dashed line at 0."""
    ends = _ends(one)
    if not ends or span == 0:
        return "<td></td>"
    x = [f"{70 + 64 * end / span:.1f}" for end in ends]
    marks = '<line class="floor" x1="70" x2="70" y1="2" y2="22"/>'
    if len(x) == 3:
        marks += f'<line class="bar" x1="{x[0]}" x2="{x[2]}" y1="12" y2="12"/>'
    middle = x[len(x) // 2]
    marks += f'<line class="mean" x1="{middle}" x2="{middle}" y1="6" y2="18"/>'
    return f'<td class="strip"><svg viewBox="0 0 140 24" width="140" height="24" aria-hidden="true">{marks}</svg></td>'
