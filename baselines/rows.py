"""From results to what a comparison says: rows, paired differences, warnings, the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baselines import report_format as fmt
from baselines.config import Resolved
from baselines.part import ablated
from baselines.stats import mean_interval, paired_difference
from neurons.errors import UsageError, nearest

Result = dict[str, Any]
Row = dict[str, Any]
BUDGETS = {
    "steps": ("train", "steps"),
    "params": ("parameters", "non_embedding"),
    "flops": ("cost", "train_macs"),
    "time": ("train", "seconds"),
}
UNSETTLED = 0.1  # stationarity above which a settling rule's row carries a warning


def make_row(
    label: str,
    runs: Sequence[tuple[Resolved, Result | None]],
    *,
    unsupported: str | None = None,
    failed: str | None = None,
    scaling: dict[str, Any] | None = None,
) -> Row:
    """One line of the table: means over the seeds that finished. ``unsupported`` says why the rule cannot train the
    model, ``failed`` why a seed did not finish."""
    mine = [(one, result) for one, result in runs if one.label == label]
    results = [result for _, result in mine if result is not None]
    model, rule = label.split(" / ")
    row: Row = {"label": label, "model": model, "rule": rule, "n": len(results)}
    row |= {"unsupported": unsupported or (failed if not results else None), "failed": failed}
    if not results:
        return row
    values = [result["primary"]["value"] for result in results]
    mean, low, high = mean_interval(values)
    return row | {
        "rule_options": results[0]["rule"]["config"],
        "control": mine[0][0].control,
        "local": results[0]["rule"]["local"],
        "seeds": [result["seed"] for result in results],
        "value": {"mean": mean, "low": low, "high": high, "values": values},
        "held_out": {"mean": _mean(results, "metrics", "held_out")},
        "parameters": results[0]["model"]["parameters"],
        "train": {
            key: _mean(results, "train", key) for key in ("seconds", "steps", "samples_per_second", "tokens_per_second")
        },
        "inference": {key: _mean(results, "inference", key) for key in ("latency_ms", "samples_per_second")},
        "memory": {
            "peak_bytes": max(result["memory"]["peak_bytes"] for result in results),
            "saved_activation_bytes": results[0]["memory"]["saved_activation_bytes"],
        },
        "cost": {key: _mean(results, "cost", key) for key in ("train_macs", "inference_macs")},
        "attention_scaling": scaling,
        "cosine_to_backprop": {
            "start": _mean(results, "metrics", "cosine_to_backprop_start"),
            "end": _mean(results, "metrics", "cosine_to_backprop"),
        },
        "stationarity": _mean(results, "metrics", "rule_stationarity"),
        "passes": _mean(results, "metrics", "rule_passes"),
    }


def pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Paired differences of every row and every later one, over the seeds both finished.

    A row without a component is paired with its full model only: few tests, so that few look significant by chance.
    """
    ran = [row for row in rows if row["n"]]
    full = full_models([row["label"] for row in ran])
    return [
        difference(a, b)
        for i, a in enumerate(ran)
        for b in ran[i + 1 :]
        if set(a["seeds"]) & set(b["seeds"])
        and full.get(a["label"], b["label"]) == b["label"]
        and full.get(b["label"], a["label"]) == a["label"]
    ]


def full_models(labels: Sequence[str]) -> dict[str, str]:
    """Label of each row that lacks a component -> label of the full model, of those that are among ``labels``."""
    pairs = ((label, ablated(label)[0]) for label in labels)
    return {label: full for label, full in pairs if full != label and full in labels}


def difference(a: Row, b: Row) -> dict[str, Any]:
    """Mean of a - b over the seeds both finished, with its t interval and p (null with one seed)."""
    values = [dict(zip(row["seeds"], row["value"]["values"], strict=True)) for row in (a, b)]
    shared = [seed for seed in a["seeds"] if seed in values[1]]
    told = paired_difference([values[0][seed] for seed in shared], [values[1][seed] for seed in shared])
    found = {"difference": told.mean, "low": told.low, "high": told.high, "n": len(shared), "p": told.p}
    return {"a": a["label"], "b": b["label"], **found}


def sides(text: str, labels: Sequence[str]) -> tuple[str, str]:
    """The two rows of a requirement ``a > b``: whole labels, or the first row of a model or rule."""
    left, greater, right = (part.strip() for part in text.partition(">"))
    if not greater or not left or not right:
        raise UsageError(f"--require takes 'a > b', not '{text}'")
    names = []
    for side in (left, right):
        fits = [label for label in labels if side in (label, label.replace(" ", ""), *label.split(" / "))]
        if not fits:
            raise UsageError(f"--require: no row '{side}'.{nearest(side, labels)} Rows: {', '.join(labels)}")
        names.append(fits[0])
    return names[0], names[1]


def requirement(text: str, rows: Sequence[Row], *, higher_is_better: bool = True) -> dict[str, Any]:
    """``a > b``, a better than b: met when the whole interval of the paired difference is on the better side of 0; a
    row that did not run meets nothing."""
    a, b = sides(text, [row["label"] for row in rows])
    by_label = {row["label"]: row for row in rows}
    told = {"difference": None, "low": None, "high": None}
    if by_label[a]["n"] and by_label[b]["n"]:
        told = {key: value for key, value in difference(by_label[a], by_label[b]).items() if key in told}
    met = told["low"] is not None and (told["low"] > 0 if higher_is_better else told["high"] < 0)
    return {"expression": text, "met": met, **told}


def warnings(
    rows: Sequence[Row],
    floors: dict[str, float],
    results: Sequence[Result],
    matched: str,
    *,
    higher_is_better: bool = True,
) -> list[str]:
    """What a reader must know before quoting the table; ``matched`` is what should be equal between its rows."""
    found = []
    seeds = min((row["n"] for row in rows if row["n"]), default=0)
    if seeds < 3:
        found.append(f"{seeds} seed{'s' if seeds > 1 else ''}: fewer than 3, no interval to rely on")
    for row in rows:
        if trouble := row["unsupported"] or row["failed"]:
            found.append(f"{row['label']}: {trouble}")
        if not row["n"]:
            continue
        mean = row["value"]["mean"]
        better = 1 if higher_is_better else -1
        ahead = [f"{name} {value:.3f}" for name, value in floors.items() if better * mean < better * value]
        if ahead:
            how = "below" if higher_is_better else "worse than"
            found.append(f"{row['label']} ({mean:.3f}) is {how} a floor: {', '.join(ahead)}")
        if row["stationarity"] is not None and row["stationarity"] > UNSETTLED:
            found.append(f"{row['label']} did not settle: {row['stationarity']:.2f} of the driving error is left")
    section, key = BUDGETS.get(matched, BUDGETS["steps"])
    spent = [row[section][key] for row in rows if row["n"]]
    if spent and max(spent) > 1.05 * min(spent):
        found.append(f"budgets differ: {section} {key.replace('_', ' ')} from {min(spent):.4g} to {max(spent):.4g}")
    chance = {text for result in results for text in result["warnings"] if text.startswith("at chance")}
    return found + sorted(chance)


def verdict(document: dict[str, Any]) -> str:
    """One sentence with its interval: the first model against the next one, or its first two rules, or the mean alone;
    what its components are worth where one model was taken apart.

    A model speaks through its best rule on held-out data, so that the test split selects nothing; controls are out.
    """
    name, task = document["primary"]["name"], document["task"]["name"]
    better = 1 if document["primary"].get("higher_is_better", True) else -1
    lacking = full_models([row["label"] for row in document["rows"]])
    ran = [row for row in document["rows"] if row["n"] and not row["control"] and row["label"] not in lacking]
    if not ran:
        return f"No run on {task} finished."
    if document.get("ablations") and len(ran) == 1:
        return f"On {task}, {document['ablations']['verdict']}."
    models = list(dict.fromkeys(row["model"] for row in ran))
    groups = [[row for row in ran if row["model"] == model] for model in models[:2]]
    if len(models) == 1:
        groups = [[row] for row in ran[:2]]
    a, *rest = (max(group, key=lambda row: better * row["held_out"]["mean"]) for group in groups)
    if not rest or not set(a["seeds"]) & set(rest[0]["seeds"]):
        return f"On {task}, {a['label']} reaches {_value(a, name)} {fmt.words(name)}."
    b = rest[0]
    told = difference(a, b)
    if told["low"] is None:
        mine, other = _value(a, name), _value(b, name)
        what = "" if fmt.is_fraction(name) else f" {fmt.words(name)}"
        return f"On {task}, {a['label']} reaches {mine} and {b['label']} {other}{what}; one seed shows no interval."
    gap, unit = told["difference"], fmt.points_unit(name)
    if min(better * told["low"], better * told["high"]) > 0:
        claim = f"{a['label']} is ahead of {b['label']} by {_gap(abs(gap), name)}{unit}"
    elif max(better * told["low"], better * told["high"]) < 0:
        claim = f"{a['label']} is behind {b['label']} by {_gap(abs(gap), name)}{unit}"
    else:
        claim = f"{a['label']} and {b['label']} cannot be told apart ({_gap(gap, name, signed=True)}{unit})"
    ends = f"{_gap(told['low'], name, signed=True)} to {_gap(told['high'], name, signed=True)}"
    lower = "" if better > 0 else " (lower is better)"
    return f"On {task}, {claim}{lower}, 95 % interval {ends}, {told['n']} seeds."


def _value(row: Row, name: str) -> str:
    """A mean, for a sentence."""
    mean = row["value"]["mean"]
    return f"{100 * mean:.1f} %" if fmt.is_fraction(name) else f"{mean:.4g}"


def _gap(value: float, name: str, *, signed: bool = False) -> str:
    """A difference, for a sentence."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if fmt.is_fraction(name) else f"{value:{sign}.3f}"


def _mean(results: Sequence[Result], section: str, key: str) -> float | None:
    """Mean over the results that have the number; None if none does."""
    values = [result[section][key] for result in results if result[section].get(key) is not None]
    return float(sum(values) / len(values)) if values else None
