"""``compare.json``: made from finished runs, gathered from their folders, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines.config import Resolved
from baselines.rows import Result, make_row, pairs, verdict, warnings
from neurons.errors import RunError, UsageError

Finished = list[tuple[Resolved, Result | None]]


def gather(run_dirs: Sequence[Path]) -> dict[str, Any]:
    """A comparison document from finished runs of one task and split, without training anything."""
    finished: Finished = []
    for run_dir in run_dirs:
        try:
            result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
            config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"'{run_dir}' is no finished run (no result.json). Try: neurons runs list") from error
        finished.append((Resolved(config, {}, ""), result))
    finished = _labelled(finished)
    results = [result for _, result in finished if result is not None]
    if len({result["task"]["split_hash"] for result in results}) != 1:
        raise UsageError("these runs saw different splits: a report compares runs of one task and split")
    first = results[0]
    labels = list(dict.fromkeys(one.label for one, _ in finished))
    table = [make_row(label, finished) for label in labels]
    task_block = {key: first["task"][key] for key in ("name", "protocol", "split_hash", "data_source")}
    budget = {"match": "none", "value": None, "unit": "gathered runs"}
    document = make_document(
        task_block, table, finished, first["floors"], budget, first["primary"]["higher_is_better"]
    ) | {
        "seeds": sorted({result["seed"] for result in results}),
        "primary": {key: first["primary"][key] for key in ("name", "higher_is_better")},
        "requirements": [],
        "recipe": None,
        "command": None,
    }
    document["verdict"] = verdict(document)
    return document


def _labelled(finished: Finished) -> Finished:
    """Runs labelled by model and rule, with the options in which runs of one model or rule differ."""
    names: dict[str, list[dict[str, Any]]] = {}
    for kind in ("model", "rule"):
        for one, _ in finished:
            names.setdefault(one.config[kind]["name"], []).append(one.config[kind]["options"])
    differing = {
        name: [key for key in options[0] if any(other.get(key) != options[0][key] for other in options)]
        for name, options in names.items()
    }
    labelled: Finished = []
    seen: set[tuple[str, int]] = set()
    for one, result in finished:
        parts = []
        for kind in ("model", "rule"):
            name, options = one.config[kind]["name"], one.config[kind]["options"]
            parts.append(":".join([name, *(f"{key}={options.get(key)}" for key in differing[name])]))
        label = " / ".join(parts)
        if (label, one.config["seed"]) in seen:
            raise UsageError(f"two runs of '{label}' have seed {one.config['seed']}: give each run once")
        seen.add((label, one.config["seed"]))
        labelled.append((Resolved(one.config, {}, label), result))
    return labelled


def load_compare(path: Path) -> dict[str, Any]:
    """``compare.json`` of a comparison's folder, or that file itself."""
    file = path / "compare.json" if path.is_dir() else path
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' holds no readable compare.json. Try: neurons compare --task digits") from error
    if document.get("kind") != "compare":
        raise UsageError(f"'{file}' is not a comparison (kind {document.get('kind')!r})")
    return document


def make_document(
    task: dict[str, Any],
    table: list[dict[str, Any]],
    finished: Finished,
    floor_values: dict[str, float],
    budget: dict[str, Any],
    higher_is_better: bool = True,
) -> dict[str, Any]:
    """What a comparison holds beside its seeds, requirements and origin."""
    results = [result for _, result in finished if result is not None]
    if not results:
        raise RunError("no run finished: " + "; ".join(dict.fromkeys(row["unsupported"] or "" for row in table)))
    curves: dict[str, list[dict[str, Any]]] = {row["label"]: [] for row in table}
    probes: dict[str, list[dict[str, Any]]] = {}
    for one, result in finished:
        if result is not None:
            points = [
                {"step": point["step"], "seconds": point["seconds"], "loss": point["loss"], "value": point["primary"]}
                for point in result["curve"]
                if point["split"] == "held_out"
            ]
            curves[one.label].append({"seed": result["seed"], "points": points})
            probed = [point for point in result["curve"] if point["split"] == "probe"]
            if probed:
                probes.setdefault(one.label, []).append({"seed": result["seed"], "points": probed})
    return {
        "schema": 1,
        "kind": "compare",
        "task": task,
        "budget": budget,
        "rows": table,
        "floors": floor_values,
        "pairs": pairs(table),
        "warnings": warnings(table, floor_values, results, budget["match"], higher_is_better=higher_is_better),
        "curves": curves,
        **({"probes": probes} if probes else {}),
        "results": [
            {"label": one.label} | {k: v for k, v in result.items() if k not in {"predictions", "curve", "env"}}
            for one, result in finished
            if result is not None
        ],
        "env": dict(results[0]["env"]),
    }
