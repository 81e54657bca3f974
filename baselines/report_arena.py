"""The arena's page: one table over its tasks, the published rows beneath it, and a link to each task's own report."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from baselines import report_format as fmt
from baselines.report_page import section, shell
from baselines.report_rows import cell, sheet
from learning.files import json_text, write_atomic


def write(document: dict[str, Any], place: Path) -> None:
    """``lra.json`` and ``lra.html`` in ``place``."""
    write_atomic(place / "lra.json", (json_text({"schema": 1, "kind": "lra"} | document, indent=1) + "\n").encode())
    write_atomic(place / "lra.html", page(document).encode())


def page(document: dict[str, Any]) -> str:
    """The whole HTML document; links are relative, to ``<task>/report.html`` beside it."""
    tasks = list(document["tasks"])
    seeds = sorted({len(one["seeds"]) for one in document["tasks"].values()})
    facts = [f"{len(tasks)} task{'s' * (len(tasks) > 1)}", "test accuracy", f"seeds: {', '.join(map(str, seeds))}"]
    facts += ["short forms, with names of their own"] if document["short"] else []
    warnings = "".join(f"<li>{escape(text)}</li>" for text in document["warnings"])
    left_out = "".join(
        f"<li>{escape(task)} was left out: {escape(why)}</li>" for task, why in document["left_out"].items()
    )
    parts = [
        '<header>\n<p class="eyebrow">neurons lra</p>\n'
        f'<h1 id="verdict">{escape(document["verdict"])}.</h1>\n'
        f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>\n</header>',
        f'<aside class="warnings">\n<h2>Read this first</h2>\n<ul>{warnings}{left_out}</ul>\n</aside>'
        if warnings or left_out
        else "",
        section(
            "Results", _results(document, tasks), "Means over seeds with 95 % t intervals; a task links to its report."
        ),
        section(
            "Published rows", _published(document, tasks), "Another protocol is another task: read the last column."
        ),
        section("Protocols", _protocols(document)),
        section("Do it again", f"<pre><code>{escape(str(document['command']))}</code></pre>"),
    ]
    return shell("Long Range Arena: neurons lra", parts)


def _results(document: dict[str, Any], tasks: list[str]) -> str:
    head = [("Model / rule", "")] + [(task, document["tasks"][task]["name"]) for task in tasks]
    head += [("Average", ""), ("Against the transformer", "tasks ahead / level / behind")]
    lines = []
    for row in document["rows"]:
        cells = []
        for task in tasks:
            value = row["values"].get(task)
            mean, spread = fmt.dig(value, "mean"), (fmt.dig(value, "low"), fmt.dig(value, "high"))
            cells.append(cell(fmt.metric(mean, "accuracy"), task, mean, [fmt.interval(*spread, "accuracy")]))
        against = row["against"]
        told = " / ".join(str(against[key]) for key in ("ahead", "level", "behind")) if against else ""
        average = cell(fmt.metric(row["average"], "accuracy"), "average", row["average"])
        name = f'<th scope="row"><span class="name">{escape(row["label"])}</span></th>'
        lines.append(f"<tr>{name}{''.join(cells)}{average}{cell(told, 'against')}</tr>")
    floors = "".join(_floor(document["floors"].get(task), task) for task in tasks)
    lines.append(f'<tr class="floor"><th scope="row">best trivial reader</th>{floors}<td colspan="2"></td></tr>')
    links = ", ".join(f'<a href="{task}/report.html">{task}</a>' for task in tasks)
    return sheet("arena", head, lines) + f'\n<p class="note">{links}</p>'


def _floor(floor: dict[str, Any] | None, task: str) -> str:
    if floor is None:
        return cell(fmt.NOTHING, task)
    return cell(fmt.metric(floor["value"], "accuracy"), task, floor["value"], [escape(floor["name"])])


def _published(document: dict[str, Any], tasks: list[str]) -> str:
    if not document["published"]:
        return ""
    head = [("Model", ""), *((task, "%") for task in tasks), ("Protocol", "")]
    lines = [
        f'<tr><th scope="row">{escape(one["label"])}</th>'
        + "".join(cell(fmt.number(one["accuracy"].get(task)), task) for task in tasks)
        + f'<td class="reason">{escape(one["protocol"])}</td></tr>'
        for one in document["published"]
    ]
    return sheet("published", head, lines)


def _protocols(document: dict[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{escape(task)}</dt><dd>{escape(one['protocol'])} (split {escape(one['split_hash'])}, "
        f"data: {escape(one['data_source'])})</dd></div>"
        for task, one in document["tasks"].items()
    )
    return f"<dl>{items}</dl>"
