"""What each component of a model is worth: the model against itself without it, over the seeds that both finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baselines import report_format as fmt
from baselines.part import ablated
from baselines.rows import Row, difference, full_models


def ablations(rows: Sequence[Row], primary: dict[str, Any], left_out: Sequence[str] = ()) -> dict[str, Any] | None:
    """The block of a comparison's document, or None where no row lacks a component of another one.

    ``components``, the most useful first, rule by rule: the paired difference full - without in the primary metric,
    its 95 % t interval, n and p, and what both cost. A component ``earns`` its place where the whole interval is on
    the better side of 0 and ``harms`` where it is on the worse one. ``left_out`` are off in the full model already.
    """
    known = {row["label"]: row for row in rows}
    found: dict[str, list[dict[str, Any]]] = {}
    for without, full in full_models(list(known)).items():
        component = _component(known[full], known[without], primary["higher_is_better"])
        found.setdefault(full, []).append(component)
    if not found:
        return None
    for components in found.values():
        components.sort(key=lambda one: _gain(one, primary["higher_is_better"]), reverse=True)
    told = [_sentence(label, components, primary["name"]) for label, components in found.items()]
    together = [one for components in found.values() for one in components]
    return {"components": together, "left_out": list(left_out), "verdict": ". ".join(told)}


def _component(full: Row, without: Row, higher: bool) -> dict[str, Any]:
    labels = {"full": full["label"], "without": without["label"]}
    told: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "n", "p"))
    if full["n"] and without["n"] and set(full["seeds"]) & set(without["seeds"]):
        told |= {key: value for key, value in difference(full, without).items() if key in told}
    sides = {"full": full, "without": without}
    worse, better = (told["low"], told["high"]) if higher else (told["high"], told["low"])
    sign = 1 if higher else -1
    return {"component": ablated(without["label"])[1], "rule": full["rule"]} | labels | told | {
        "parameters": {side: fmt.dig(row, "parameters", "non_embedding") for side, row in sides.items()},
        "train_seconds": {side: fmt.dig(row, "train", "seconds") for side, row in sides.items()},
        "earns": worse is not None and sign * worse > 0,
        "harms": better is not None and sign * better < 0,
    }  # fmt: skip


def _gain(one: dict[str, Any], higher: bool) -> float:
    """What the component brings; a component that could not be taken away comes last."""
    known = fmt.finite(one["difference"])
    return -float("inf") if known is None else known if higher else -known


def outcome(one: dict[str, Any]) -> str:
    """What a reader may say of a component; nothing where there is no interval."""
    if one["low"] is None:
        return ""
    if one["earns"]:
        return "earns its place"
    return "does harm" if one["harms"] else "interval around 0"


def _sentence(label: str, components: Sequence[dict[str, Any]], metric: str) -> str:
    """``neuronsv2 / backprop: delay line (+2.1 points) earns its place; rhythm has an interval around 0``."""
    measured = [one for one in components if one["low"] is not None]
    if not measured:
        return f"{label}: fewer than two seeds with and without, so no component can be judged"

    def named(those: Sequence[dict[str, Any]], one: str, many: str, gap: bool = True) -> list[str]:
        gaps = [f" ({fmt.difference(this['difference'], metric)}{fmt.points_unit(metric)})" * gap for this in those]
        names = [this["component"] + told for this, told in zip(those, gaps, strict=True)]
        listed = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
        return [f"{listed} {one if len(names) == 1 else many}"] if names else []

    earning, harming = ([one for one in measured if one[key]] for key in ("earns", "harms"))
    neither = [one for one in measured if not one["earns"] and not one["harms"]]
    clauses = named(earning, "earns its place", "earn their place")
    clauses += named(neither, "has an interval around 0", "have intervals around 0", gap=False)
    clauses += named(harming, "does harm", "do harm")
    return f"{label}: {'; '.join(clauses)}"
