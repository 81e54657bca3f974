"""Exponents b of cost = a length^b, for time and for the memory kept, with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from baselines.bench.job import Row
from baselines.stats import scaling_exponent

POINTS = 5  # the longest so many lengths count: at short ones a call costs what it costs to call it


def exponents(speed: list[Row], memory: list[Row]) -> list[Row]:
    """A row per contender, form and cost: ``exponent`` with ``low`` and ``high``; None below five lengths."""
    found = [
        *_fits(speed, "least_seconds", lambda row: f"{row['phase']} time"),
        *_fits(memory, "saved_bytes", lambda row: "saved memory"),
    ]
    return sorted(found, key=lambda row: (row["group"], row["form"], row["cost"], row["exponent"] or 9.0))


def _fits(rows: list[Row], key: str, cost: Callable[[Row], str]) -> Iterator[Row]:
    curves: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if row.get("phase") != "decode":
            curves.setdefault((row["group"], row["form"], cost(row), row["name"]), []).append(row)
    for (group, form, what, name), curve in curves.items():
        measured = sorted((row["length"], row[key]) for row in curve if row[key])[-POINTS:]
        fit: Row = {"exponent": None, "low": None, "high": None, "skipped": None}
        if len(measured) == POINTS:
            fit["exponent"], fit["low"], fit["high"] = scaling_exponent(*zip(*measured, strict=True))
        else:
            reason = next((row["skipped"] for row in curve if row["skipped"]), "too few --lengths")
            fit["skipped"] = f"{len(measured)} lengths, {POINTS} make an exponent: {reason}"
        lengths, costs = [length for length, _ in measured], [value for _, value in measured]
        yield {"group": group, "form": form, "cost": what, "name": name, "lengths": lengths, "costs": costs, **fit}
