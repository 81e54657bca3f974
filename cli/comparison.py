"""A compare document as text: verdict, table with the floors beneath, pairs, warnings. Fits 80 columns."""

from __future__ import annotations

import textwrap
from typing import Any

from baselines import report_format as shown
from cli import table

BEST, CONTROL = "*", "c"


def comparison_text(document: dict[str, Any], width: int | None) -> str:
    """Verdict first, then the table, then what a reader must know before quoting it."""
    verdict = textwrap.fill(document["verdict"], width) if width else document["verdict"]
    parts = [verdict, _heading(document), _rows(document, width)]
    if document.get("ablations"):
        parts.append(_components(document, width))
    requirements = [_requirement(one, document["primary"]["name"]) for one in document.get("requirements") or []]
    warnings = [f"warning: {text}" for text in document.get("warnings") or []]
    parts += ["\n".join(lines) for lines in (requirements, warnings) if lines]
    return "\n\n".join(parts)


def _heading(document: dict[str, Any]) -> str:
    task, budget, primary = document["task"], document["budget"], document["primary"]
    seeds = len(document["seeds"])
    equal = _equal(budget)
    told = [
        f"{task['name']}: test {shown.words(primary['name'])}"
        + ("" if primary["higher_is_better"] else " (lower is better)"),
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        equal,
        f"data {task['data_source']}",
    ]
    return " · ".join(told)


def _equal(budget: dict[str, Any]) -> str:
    value = budget["value"]
    if value is None:
        return str(budget["unit"])
    return f"equal {budget['match']}: {value if isinstance(value, int) else shown.count(value)} {budget['unit']}"


def best_labels(document: dict[str, Any]) -> set[str]:
    """The rows with the best mean; controls and rows without a value do not compete."""
    means = {row["label"]: _mean(row) for row in document["rows"] if not row.get("control")}
    known = {label: value for label, value in means.items() if value is not None}
    if not known:
        return set()
    best = (max if document["primary"]["higher_is_better"] else min)(known.values())
    return {label for label, value in known.items() if value == best}


def _mean(row: dict[str, Any]) -> float | None:
    return shown.finite(shown.dig(row, "value", "mean"))


def _rows(document: dict[str, Any], width: int | None) -> str:
    name, best = document["primary"]["name"], best_labels(document)
    columns = [
        table.Column(""), table.Column("model / rule"), table.Column(shown.words(name), right=True),
        table.Column("held out", right=True, drop=6),
        table.Column("n", right=True, drop=7), table.Column("params", right=True, drop=2),
        table.Column("attention", right=True, drop=5), table.Column("train", right=True, drop=3),
        table.Column("samples/s", right=True, drop=8), table.Column("passes", right=True, drop=9),
        table.Column("cosine", right=True, drop=4), table.Column("local", drop=10),
    ]  # fmt: skip
    rows: list[list[str] | None] = [_row(row, name, row["label"] in best) for row in document["rows"]]
    floors = [
        ["", f"floor {floor}", shown.metric(value, name), *[""] * 9] for floor, value in document["floors"].items()
    ]
    if floors:
        rows += [None, *floors]
    text, dropped = table.render(columns, rows, width=width)
    notes = []
    if any(shown.dig(row, "value", "low") is not None for row in document["rows"]):
        notes.append("± 95 % interval over the seeds")
    if best:
        notes.append(f"{BEST} best mean")
    if any(row.get("control") for row in document["rows"]):
        notes.append(f"{CONTROL} exact-gradient control of a settling rule, out of competition")
    if "params" not in dropped:
        notes.append("params: trainable and fixed ones, embedding tables left out")
    if "passes" not in dropped and any("passes" in row for row in document["rows"]):
        notes.append("passes: forward and backward passes through one stage, in one step")
    if "cosine" not in dropped and any("cosine_to_backprop" in row for row in document["rows"]):
        notes.append("cosine: of the rule's gradient to backprop's, after training")
    if dropped:
        notes.append(f"too wide to show: {', '.join(dropped)}")
    return "\n".join([text, *(textwrap.fill(note, width or 100) for note in notes)])


def _row(row: dict[str, Any], name: str, best: bool) -> list[str]:
    if row.get("unsupported"):
        return ["", row["label"], shown.NOTHING, *[""] * 9]

    def told(text: str, value: object) -> str:
        return "" if value is None else text

    cosine, passes = shown.dig(row, "cosine_to_backprop", "end"), row.get("passes")
    held_out, rate = shown.dig(row, "held_out", "mean"), shown.dig(row, "train", "samples_per_second")
    return [
        CONTROL if row.get("control") else BEST if best else "",
        row["label"],
        shown.plus_minus(row["value"], name),
        told(shown.metric(held_out, name), held_out),
        str(row["n"]),
        shown.count(shown.dig(row, "parameters", "non_embedding")),
        shown.count(shown.dig(row, "parameters", "attention")),
        shown.seconds(shown.dig(row, "train", "seconds")),
        told(shown.count(rate), rate),
        told(shown.number(passes), passes),
        told(shown.number(cosine), cosine),
        "yes" if row.get("local") else "no",
    ]


def _components(document: dict[str, Any], width: int | None) -> str:
    """What each component is worth, the most useful first; nothing stands where it could not be taken away."""
    from baselines.ablations import outcome  # here: it brings numpy, which --help does without

    block, name = document["ablations"], document["primary"]["name"]
    unit = shown.points_unit(name)
    values = {row["label"]: row.get("value") for row in document["rows"]}
    several = len({one["full"] for one in block["components"]}) > 1
    columns = [
        table.Column("component"), table.Column("rule"), table.Column("without it", right=True, drop=2),
        table.Column("difference", right=True), table.Column("95 % interval", right=True),
        table.Column("n", right=True), table.Column("p", right=True, drop=3),
        table.Column("params", right=True, drop=5), table.Column("train", right=True, drop=4), table.Column("", drop=1),
    ]  # fmt: skip
    rows = []
    for one in block["components"]:
        cells = [""] * 8
        if one["n"]:
            cells = [
                shown.plus_minus(values[one["without"]], name), shown.difference(one["difference"], name),
                shown.interval(one["low"], one["high"], name, signed=True), str(one["n"]), shown.number(one["p"]),
                shown.count(one["parameters"]["without"]), shown.seconds(one["train_seconds"]["without"]), outcome(one),
            ]  # fmt: skip
        rows.append([one["component"], one["rule"] if several else "", *cells])
    told = [] if block["verdict"] in document["verdict"] else [block["verdict"]]
    told.append(f"Difference: full model minus the model without it{',' * bool(unit)}{unit}.")
    if block["left_out"]:
        told.append(f"Off in the full model already: {', '.join(block['left_out'])}.")
    text, _ = table.render(columns, rows, width=width)
    return "\n".join([text, *(textwrap.fill(line, width or 100) for line in told)])


def _requirement(one: dict[str, Any], name: str) -> str:
    outcome = "met" if one["met"] else "NOT met"
    told = f"{shown.difference(one['difference'], name)} {shown.interval(one['low'], one['high'], name, signed=True)}"
    return f"require {one['expression']}: {outcome}, difference {told}".rstrip()
