"""A bench document as text: a table for each form and phase, lengths across; what was left out; the bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from baselines import report_format as shown
from cli import table

Row = dict[str, Any]
MARKS = {True: "met", False: "MISSED", None: "not measured"}


def bench_text(document: dict[str, Any], width: int | None) -> str:
    """Every suite's tables, then what was left out and why, then the bars."""
    setting, env = document["setting"], document["env"]
    threads = f"{setting['threads']} thread{'s' if setting['threads'] > 1 else ''}"
    shape = f"batch {setting['batch']}, {setting['heads']} x {setting['width'] // setting['heads']} channels"
    parts = [f"{env['gpu'] if setting['device'] != 'cpu' else env['cpu']}, {threads}, torch {env['torch']} · {shape}"]
    if (document["load"] or 0.0) >= env["cores"]:
        parts.append(f"warning: the machine was busy, {document['load']:.1f} processes on {env['cores']} cores")
    for suite, rows in document["rows"].items():
        parts += _SUITES[suite](rows, width)
    parts += [part for part in (_skipped(document), _bars(document["bars"])) if part]
    return "\n\n".join(parts)


def _speed(rows: list[Row], width: int | None) -> Iterator[str]:
    for title, group in _groups(rows, ("group", "form", "phase")):
        unit = "per token after n" if group[0]["phase"] == "decode" else "per call"
        yield _across(f"{title}, {unit}; x = times as fast as {group[0]['reference']}", group, _time, width)


def _memory(rows: list[Row], width: int | None) -> Iterator[str]:
    for title, group in _groups(rows, ("group", "form")):
        yield _across(f"{title}, kept for the backward pass", group, lambda row: shown.size(row["saved_bytes"]), width)
        if any(row["peak_bytes"] is not None for row in group):
            yield _across(f"{title}, peak of a training call", group, lambda row: shown.size(row["peak_bytes"]), width)


def _scaling(rows: list[Row], width: int | None) -> Iterator[str]:
    columns = [table.Column("cost"), table.Column("form"), table.Column("what"), table.Column("exponent", right=True)]
    columns += [table.Column("95 %"), table.Column("lengths", drop=1)]
    cells = [
        [row["cost"], f"{row['group']}, {row['form']}", row["name"], *_exponent(row)]
        for row in rows
        if row["exponent"] is not None
    ]
    yield "exponents of the length\n" + table.render(columns, cells, width=width)[0]


def _exponent(row: Row) -> list[str]:
    span = f"{row['lengths'][0]:,} to {row['lengths'][-1]:,}"
    return [f"{row['exponent']:.2f}", f"[{row['low']:.2f}, {row['high']:.2f}]", span]


def _model(rows: list[Row], width: int | None) -> Iterator[str]:
    for title, group in _groups(rows, ("output",)):
        count = {row["name"]: f"{row['name']} ({shown.count(row['parameters'])})" for row in group}
        named = [row | {"name": count[row["name"]]} for row in group]
        yield _across(f"whole models, one sample, {title} output; x = times as fast", named, _time, width)


def _decode(rows: list[Row], width: int | None) -> Iterator[str]:
    count = {row["name"]: f"{row['name']} ({shown.count(row['parameters'])})" for row in rows}
    named = [row | {"name": count[row["name"]]} for row in rows]
    yield _across("tokens per second behind n tokens; x = times as fast as gpt", named, _rate, width)
    yield _across("bytes that remember n tokens", named, lambda row: shown.size(row["state_bytes"]), width)
    yield _across("bytes of one more", named, lambda row: shown.number(row["bytes_per_token"]), width)


def _rate(row: Row) -> str:
    return shown.number(row["tokens_per_second"]) + ("" if row["ratio"] == 1 else f" {shown.number(row['ratio'])}x")


def _resonance(rows: list[Row], width: int | None) -> Iterator[str]:
    networks = [row for row in rows if row["what"] == "networks"]
    for title, group in _groups([row | {"samples": str(row["batch"])} for row in networks], ("output", "samples")):
        yield _across(f"width 768, 6 layers: {title} samples; x = times as fast", group, _time, width)
    columns = [table.Column("what"), table.Column("case"), table.Column("GMAC", right=True)]
    columns += [table.Column("GFLOP/s", right=True), table.Column("GB/s", right=True)]
    cells = [
        [row["name"], f"{row['output']}, {row['batch']} x {row['length']:,}" if "output" in row else "ceiling",
         *(shown.number(row[key] / 1e9) for key in ("macs", "flops_per_second", "bytes_per_second"))]
        for row in rows
        if row["what"] != "exponents" and not row["skipped"]
    ]  # fmt: skip
    yield "achieved; bytes as if nothing stayed in a cache\n" + table.render(columns, cells, width=width)[0]
    fits = [row for row in rows if row["what"] == "exponents" and row["exponent"] is not None]
    for row in fits:
        interval = f"{row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        yield f"{row['name']}, {row['output']}: time grows as n^{interval}"


def _peers(rows: list[Row], width: int | None) -> Iterator[str]:
    if any("cost" in row for row in rows):
        yield from _learning(rows, width)
        return
    accurate = [row for row in rows if "error" in row]
    columns = [table.Column("what"), table.Column("largest error", right=True)]
    cells = [[row["name"], shown.number(row["error"])] for row in accurate]
    yield "the same attention, rendered\n" + table.render(columns, cells, width=width)[0]
    for title, group in _groups([row for row in rows if "error" not in row], ("form", "phase")):
        yield _across(f"{title}, per call; x = times as fast as {group[0]['reference']}", group, _time, width)


def _learning(rows: list[Row], width: int | None) -> Iterator[str]:
    columns = [table.Column(""), table.Column("time", right=True), table.Column("of its backprop", right=True)]
    for steps in sorted({row["steps"] for row in rows}):
        cells = [
            [row["name"], shown.seconds(row["seconds"]), f"{row['cost']:.2f}x"]
            for row in rows
            if row["steps"] == steps and not row["skipped"]
        ]
        title = f"a training step of 784-256-256-10, batch 256, T = {steps}; x = times backprop in the same library"
        yield f"{title}\n{table.render(columns, cells, width=width)[0]}"


def _contest(rows: list[Row], width: int | None) -> Iterator[str]:
    columns = [
        table.Column("what"),
        table.Column("case"),
        table.Column("time", right=True),
        table.Column("x", right=True),
    ]
    cells = [
        [row["name"], ", ".join(str(row[key]) for key in ("rule", "phase") if key in row),
         shown.seconds(row["seconds"]), f"{shown.number(row['ratio'])}x"]
        for row in rows
    ]  # fmt: skip
    yield f"per call; x = times as fast as {rows[0]['reference']}\n" + table.render(columns, cells, width=width)[0]


_SUITES: dict[str, Callable[[list[Row], int | None], Iterator[str]]] = {
    "speed": _speed,
    "memory": _memory,
    "scaling": _scaling,
    "model": _model,
    "decode": _decode,
    "resonance": _resonance,
    "dendrites": _contest,
    "fast-weights": _contest,
    "peers": _peers,
}


def _groups(rows: list[Row], keys: tuple[str, ...]) -> Iterator[tuple[str, list[Row]]]:
    """Rows that agree in ``keys``, under a title made of those."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for values, group in sorted(groups.items()):
        yield " ".join(values), group


def _across(title: str, rows: list[Row], cell: Callable[[Row], str], width: int | None) -> str:
    """A table with a line per name and a column per length."""
    lengths = sorted({row["length"] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    at = {(row["name"], row["length"]): row for row in rows}
    columns = [table.Column(""), *(table.Column(f"{n:,}", right=True, drop=_drop(lengths, n)) for n in lengths)]
    lines = [
        [name, *("-" if (row := at.get((name, n))) is None or row["skipped"] else cell(row) for n in lengths)]
        for name in sorted(names)
    ]
    return f"{title}\n{table.render(columns, lines, width=width)[0]}"


def _drop(lengths: list[int], length: int) -> int:
    """Where the table is too wide the shortest lengths go first; the longest three stay."""
    return max(0, len(lengths) - 3 - lengths.index(length))


def _time(row: Row) -> str:
    ratio = (
        "" if row["ratio"] is None or row["name"].startswith(row["reference"]) else f" {shown.number(row['ratio'])}x"
    )
    return shown.seconds(row["seconds"]) + ratio


def _skipped(document: dict[str, Any]) -> str:
    """Who is missing, at which lengths, and why; neighbouring reasons of one contender on one line."""
    told: dict[str, list[str]] = {}
    for suite, rows in document["rows"].items():
        for row in rows:
            if row["skipped"]:
                what = " ".join(str(row[key]) for key in ("form", "phase", "output", "cost") if row.get(key))
                at = f" at {row['length']:,}" if "length" in row else ""
                told.setdefault(f"{row['name']}: {row['skipped']}", []).append(f"{suite}, {what}{at}")
    lines = [
        f"  {reason} ({places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''})"
        for reason, places in told.items()
    ]
    return "\n".join(["left out", *lines]) if lines else ""


def _bars(bars: list[dict[str, Any]]) -> str:
    rows = [
        [MARKS[bar["met"]], bar["text"], "" if bar["measured"] is None else shown.number(bar["measured"])]
        for bar in bars
    ]
    columns = [table.Column("bar"), table.Column(""), table.Column("measured", right=True)]
    return table.render(columns, rows, width=None)[0] if rows else ""
