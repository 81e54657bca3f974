"""Long Range Arena as a whole: which comparison stands for which of its tasks, the published rows, and one table.

A suite is a row of recipes, one per task; each is an ordinary comparison with its own ``compare.json`` and report.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baselines import report_format as fmt
from neurons.errors import UsageError, nearest

COLUMNS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
FULL = {
    "listops": "listops",
    "text": "lra-text",
    "retrieval": "lra-retrieval",
    "image": "lra-image",
    "pathfinder": "pathfinder32",
    "pathx": "pathx",
}
SHORT = {
    "listops": "listops-arena",
    "text": "lra-text-short",
    "retrieval": "pair-matching-short",
    "image": "lra-image-short",
    "pathfinder": "pathfinder-short",
}


REFERENCE = "transformer / backprop"


@dataclass(frozen=True)
class Published:
    """A row of the literature in per cent, in the order of ``COLUMNS``; None where it was not reported or the model
    stayed at chance. ``protocol`` says what differs from ours."""

    name: str
    protocol: str
    accuracy: tuple[float | None, float | None, float | None, float | None, float | None, float | None]


PUBLISHED = (
    Published(
        "Transformer (Tay et al. 2021)",
        "text selected on test; image as 256 symbols; pathx at chance",
        (36.37, 64.27, 57.46, 42.44, 71.40, None),
    ),
    Published(
        "Transformer, PyTorch (Dao et al. 2022)",
        "FlashAttention's rerun, its table 3; image as 256 symbols",
        (36.0, 63.6, 81.6, 42.3, 72.7, None),
    ),
    Published(
        "S4-v2 (as rerun by Ma et al. 2023)",
        "text selected on test; image as continuous pixels",
        (59.10, 86.53, 90.94, 88.48, 94.01, 96.07),
    ),
    Published("LRU (Orvieto et al. 2023)", "image in colour", (60.2, 89.4, 89.9, 89.0, 95.1, 94.2)),
    Published("S5 (Smith et al. 2023)", "image as continuous pixels", (62.15, 89.31, 91.40, 88.00, 95.33, 98.58)),
    Published("Mega (Ma et al. 2023)", "image as continuous pixels", (63.14, 90.43, 91.25, 90.44, 96.01, 97.98)),
)


def suite(task: str, *, short: bool) -> dict[str, str]:
    """Task -> recipe for one task of the arena, or for ``all``."""
    recipes = SHORT if short else FULL
    if task == "all":
        return dict(recipes)
    if task not in recipes:
        more = " (no short form)" if short and task in FULL else ""
        raise UsageError(
            f"'{task}' is no task of the {'short ' if short else ''}arena{more}."
            f"{nearest(task, [*recipes, 'all'])} It has: {', '.join(recipes)}, all"
        )
    return {task: recipes[task]}


def table(documents: Mapping[str, dict[str, Any]], *, short: bool) -> dict[str, Any]:
    """One document over the comparisons of the arena's tasks, ``documents`` by task.

    ``rows``: by label, the value block of each task and their mean over the tasks, None unless every task has one.
    ``against``: on how many tasks the paired interval to ``REFERENCE`` lies above 0, around it and below.
    ``floors``: the best trivial reader of each task.  ``published``: the literature's rows, only beside the full tasks:
    a short task has no published row.
    """
    labels = list(dict.fromkeys(row["label"] for one in documents.values() for row in one["rows"]))
    rows = []
    for label in labels:
        found = {task: _value(document, label) for task, document in documents.items()}
        means = [fmt.finite(fmt.dig(value, "mean")) for value in found.values()]
        known = [mean for mean in means if mean is not None]
        average = sum(known) / len(known) if known and len(known) == len(means) else None
        rows.append({"label": label, "values": found, "average": average, "against": _against(documents, label)})
    floors = {task: _best_floor(document["floors"]) for task, document in documents.items()}
    return {
        "tasks": {task: document["task"] | {"seeds": document["seeds"]} for task, document in documents.items()},
        "short": short,
        "rows": rows,
        "floors": floors,
        "published": [] if short else [_published(one, list(documents)) for one in PUBLISHED],
        "warnings": [f"{task}: {text}" for task, one in documents.items() for text in one.get("warnings") or []],
        "verdict": _verdict(rows, len(documents)),
    }


def _value(document: dict[str, Any], label: str) -> dict[str, Any] | None:
    row = next((row for row in document["rows"] if row["label"] == label), None)
    return None if row is None or fmt.finite(fmt.dig(row, "value", "mean")) is None else row["value"]


def _best_floor(floors: Mapping[str, float]) -> dict[str, Any] | None:
    if not floors:
        return None
    name = max(floors, key=lambda one: floors[one])
    return {"name": name, "value": floors[name]}


def _against(documents: Mapping[str, dict[str, Any]], label: str) -> dict[str, int] | None:
    """On how many tasks the paired 95 % interval against the reference lies above 0, around it, and below it."""
    counts = {"ahead": 0, "level": 0, "behind": 0}
    if label == REFERENCE:
        return None
    for document in documents.values():
        for pair in document["pairs"]:
            if {pair["a"], pair["b"]} != {label, REFERENCE} or fmt.finite(pair["low"]) is None:
                continue
            low, high = (pair["low"], pair["high"]) if pair["a"] == label else (-pair["high"], -pair["low"])
            counts["ahead" if low > 0 else "behind" if high < 0 else "level"] += 1
    return counts if any(counts.values()) else None


def _published(one: Published, tasks: Sequence[str]) -> dict[str, Any]:
    shown = {task: value for task, value in zip(COLUMNS, one.accuracy, strict=True) if task in tasks}
    return {"label": one.name, "protocol": one.protocol, "accuracy": shown}


def _verdict(rows: Sequence[dict[str, Any]], tasks: int) -> str:
    """``Against transformer / backprop, of 5 tasks: neuronsv2 / backprop is ahead on 2, level on 3, behind on 0``."""
    told = [
        f"{row['label']} is ahead on {row['against']['ahead']}, level on {row['against']['level']}, behind on "
        f"{row['against']['behind']}"
        for row in rows
        if row["against"]
    ]
    if not told:
        return "No row has a paired interval against the transformer: at least two seeds of both are needed"
    return f"Against {REFERENCE}, of {tasks} task{'s' * (tasks > 1)}: " + "; ".join(told)
