"""The report of a comparison: one HTML file that needs nothing else, and the table for the README."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from baselines import report_ablations
from baselines import report_format as fmt
from baselines import report_rows as rows
from baselines.report_figures import figures
from baselines.report_page import section, shell
from baselines.report_probe import probe_figures
from baselines.report_svg import Look, looks
from baselines.report_table import markdown_table
from learning.files import write_atomic, write_error

__all__ = ["markdown_table", "page", "write"]


def write(compare: dict, path: Path) -> None:
    """Write the page of a compare.json document to ``path``: the same bytes for the same document.

    The old file stays whole until the new one is; RunError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    write_atomic(path, page(compare).encode())


def page(compare: dict) -> str:
    """The whole HTML document."""
    task = str(fmt.dig(compare, "task", "name") or "comparison")
    style = looks(compare.get("rows") or [])
    parts = [
        _head(compare, task),
        _warnings(compare),
        section("What each component is worth", report_ablations.table(compare), _apart(compare)),
        section("Results", rows.results(compare, style), "Hover over a number for all its digits."),
        _figures(compare, style),
        section(
            "What it cost",
            rows.cost(compare, style) + rows.memory(compare, style),
            "Speed: samples per second. MACs: multiply-accumulates. A pass is forward or backward through one stage.",
        ),
        section("Paired differences", rows.pairs(compare)),
        _protocol(compare),
        _limits(compare),
        _reproduce(compare),
        _runs(compare),
    ]
    return shell(f"{task}: neurons compare", parts)


def _seeds(compare: dict) -> str:
    count = len(compare.get("seeds") or [])
    return "1 seed" if count == 1 else f"{count} seeds"


def _budget(compare: dict) -> str:
    match, value, unit = (fmt.dig(compare, "budget", key) for key in ("match", "value", "unit"))
    if match in (None, "none"):
        return "budget not matched"
    return f"equal {match}" + (f": {fmt.number(value)} {unit or ''}".rstrip() if fmt.finite(value) is not None else "")


def _head(compare: dict, task: str) -> str:
    metric = str(fmt.dig(compare, "primary", "name"))
    better = "higher" if fmt.dig(compare, "primary", "higher_is_better") else "lower"
    facts = [f"{fmt.words(metric)}, {better} is better", _seeds(compare), _budget(compare)]
    source = fmt.dig(compare, "task", "data_source")
    facts += [f"data: {source}"] if source else []
    met = "".join(
        f'<li class="{"met" if item.get("met") else "unmet"}"><b>{"✓ met" if item.get("met") else "✗ not met"}</b> '
        f"<code>{escape(str(item.get('expression')))}</code>{escape(_gap(item, metric))}</li>"
        for item in compare.get("requirements") or []
    )
    return (
        f'<header>\n<p class="eyebrow">neurons compare · {escape(task)}</p>\n'
        f'<h1 id="verdict">{escape(str(compare.get("verdict") or "No verdict."))}</h1>\n'
        f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>\n'
        + (f'<ul class="requirements">{met}</ul>\n' if met else "")
        + "</header>"
    )


def _gap(item: dict, metric: str) -> str:
    if fmt.finite(item.get("difference")) is None:
        return ""
    spread = fmt.interval(item.get("low"), item.get("high"), metric, signed=True)
    return f" difference {fmt.difference(item['difference'], metric)} {spread}".rstrip() + fmt.points_unit(metric)


def _warnings(compare: dict) -> str:
    items = "".join(f"<li>{escape(str(text))}</li>" for text in compare.get("warnings") or [])
    return f'<aside class="warnings">\n<h2>Read this first</h2>\n<ul>{items}</ul>\n</aside>' if items else ""


def _apart(compare: dict) -> str:
    """How to read the table of components, and what was not taken away."""
    block = compare.get("ablations") or {}
    told = "The same model without one component, trained alike. A component earns its place where the whole interval "
    told += "is on the better side of no difference."
    said = [told] if str(block.get("verdict")) in str(compare.get("verdict")) else [f"{block.get('verdict')}.", told]
    if block.get("left_out"):
        said.append(f"Off in the full model already: {', '.join(block['left_out'])}.")
    return escape(" ".join(said))


def _figures(compare: dict, style: dict[str, Look]) -> str:
    drawings = [*figures(compare, style), *probe_figures(compare, style)]
    if not drawings:
        return ""
    legend = "".join(f"<li>{rows.swatch(look)}{escape(label)}</li>" for label, look in style.items())
    cards = "\n".join(
        f'<figure role="group" aria-label="{escape(one.title)}"><h3>{escape(one.title)}</h3>\n{one.svg}\n'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in drawings
    )
    return section("Figures", f'<ul class="legend">{legend}</ul>\n<div class="grid">\n{cards}\n</div>')


def _flat(document: object, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(document, dict):
        return [
            pair for key, value in document.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    text = ", ".join(map(str, document)) if isinstance(document, list) else str(document)
    return [] if document is None else [(prefix, text)]


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(text)}</dd></div>" for key, text in pairs)
    return f"<dl>{items}</dl>"


def _protocol(compare: dict) -> str:
    task = {key.replace("_", " ").replace("name", "task"): value for key, value in (compare.get("task") or {}).items()}
    seeds, recipe = _flat(compare.get("seeds") or None, "seeds"), _flat(compare.get("recipe"), "recipe")
    facts = [*_flat(task), ("budget", _budget(compare)), *seeds, *recipe]
    environment = _flat(compare.get("env"))
    body = _definitions(facts) + (f"\n<h3>Environment</h3>\n{_definitions(environment)}" if environment else "")
    return section("Protocol and provenance", body)


def _limits(compare: dict) -> str:
    shown = compare.get("rows") or []
    seeds, pairs = len(compare.get("seeds") or []), len(compare.get("pairs") or [])
    said = [
        f"The intervals are 95 % t intervals over {_seeds(compare)}. They cover initialisation and the order of the "
        "data, not another split, another machine or other settings."
        if seeds > 1
        else "One seed has no interval: a difference seen here may be chance.",
        f"{pairs} pairs are tested and nothing is corrected for that: some will look significant by chance."
        if pairs > 1
        else "",
        f"{_budget(compare).capitalize()}. What is not matched differs; the cost table says by how much.",
        "Times and memory belong to the machine named above and to what else ran on it; multiply-accumulates do not. "
        "Peak memory is the highest so far of the process that ran the row.",
        "Models were selected on held-out data; the test split was scored once per run.",
        "A control is there to explain a result, not to win." if any(row.get("control") for row in shown) else "",
        "A local rule sends no gradient across the boundary of a stage."
        if any(row.get("local") for row in shown)
        else "",
        "Nothing is said here about tasks, sizes or budgets that are not in the table.",
    ]
    return section("Limits", f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in said if text)}</ul>")


def _reproduce(compare: dict) -> str:
    revision, dirty = fmt.dig(compare, "env", "git_revision"), fmt.dig(compare, "env", "git_dirty")
    changed = "  # and changes that were not committed" if dirty else ""
    lines = [f"git checkout {revision}{changed}"] if revision else []
    lines += ["pip install -c constraints.txt -e ."]
    lines += [str(compare["command"])] if compare.get("command") else []
    told = "The same seeds, thread count and machine give the same numbers; times vary."
    if not compare.get("command"):
        told = "These runs were gathered; the command of each is not known here, its config.json is beside it."
    return section("Do it again", f"<pre><code>{escape(chr(10).join(lines))}</code></pre>", told)


def _runs(compare: dict) -> str:
    listed = rows.runs(compare)
    count = len(compare.get("results") or [])
    return (
        f"<section>\n<details><summary>Every run ({count})</summary>\n{listed}\n</details>\n</section>"
        if listed
        else ""
    )
