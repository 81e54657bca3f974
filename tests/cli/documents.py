"""Documents as the experiment layer writes them, small, with numbers that can be recognised."""

from __future__ import annotations

import json
from typing import Any

from click.testing import Result

PARAMETERS = {"total": 12345, "trainable": 12345, "non_embedding": 10001, "attention": 77, "state_bytes": 0}


def one_document(result: Result) -> dict[str, Any]:
    """The one JSON document on stdout."""
    assert result.stdout, result.stderr
    value, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(result.stdout)
    assert result.stdout[end:].strip() == ""
    assert value["schema"] == 1
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def run_result(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "complete",
        "task": {"name": "digits", "protocol": "p", "split": "test", "split_hash": "h", "data_source": "scikit-learn"},
        "model": {"name": "mlp", "parameters": PARAMETERS, "config": {}},
        "rule": {"name": "backprop", "local": False, "config": {}},
        "seed": 5,
        "primary": {"name": "accuracy", "value": 0.8125, "higher_is_better": True},
        "metrics": {"held_out": 0.7321},
        "floors": {"majority": 0.101},
        "train": {"seconds": 12.34, "steps": 300, "samples_per_second": 780.0},
        "warnings": ["fewer than 3 seeds"],
        "stopped_by": "steps",
    } | changes


def row(label: str, mean: float, **changes: Any) -> dict[str, Any]:
    model, rule = label.split(" / ")
    return {
        "label": label,
        "model": model,
        "rule": rule,
        "control": False,
        "local": rule == "predictive-coding",
        "n": 3,
        "value": {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "values": [mean] * 3},
        "held_out": {"mean": mean - 0.01},
        "parameters": PARAMETERS,
        "train": {"seconds": 61.0, "steps": 300, "samples_per_second": 500.0, "tokens_per_second": None},
        "cosine_to_backprop": {"start": 1.0, "end": 0.987},
        "passes": 9.0,
        "unsupported": None,
    } | changes


def taken_apart(**changes: Any) -> dict[str, Any]:
    """A comparison of a model with itself, without one component at a time."""

    def component(name: str, rule: str, difference: float | None, *ends: float) -> dict[str, Any]:
        low, high = ends or (None, None)
        return {
            "component": name, "rule": rule, "full": f"m / {rule}", "without": f"m - {name} / {rule}",
            "difference": difference, "low": low, "high": high, "n": None if difference is None else 3, "p": 0.0123,
            "parameters": {"full": 10001, "without": 9000}, "train_seconds": {"full": 61.0, "without": 42.0},
            "earns": bool(ends) and ends[0] > 0, "harms": bool(ends) and ends[1] < 0,
        }  # fmt: skip

    rows = [row("m / r", 0.80), row("m - line / r", 0.75), row("m - knot / r", 0.79)]
    components = [
        component("line", "r", 0.05, 0.02, 0.08),
        component("knot", "r", 0.01, -0.02, 0.04),
        component("heart", "r", None),
    ]
    told = "m / r: line (+5.0 points) earns its place; knot has an interval around 0"
    rows.append({"label": "m - heart / r", "model": "m - heart", "rule": "r", "n": 0, "unsupported": "has no heart"})
    block = {"components": components, "left_out": ["wings"], "verdict": told}
    return comparison(**{"rows": rows, "ablations": block, "verdict": f"On digits, {told}."} | changes)


def comparison(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "compare",
        "task": {"name": "digits", "protocol": "p", "split_hash": "h", "data_source": "scikit-learn"},
        "budget": {"match": "steps", "value": 300, "unit": "steps"},
        "seeds": [0, 1, 2],
        "primary": {"name": "accuracy", "higher_is_better": True},
        "rows": [
            row("neuronsv2 / predictive-coding", 0.81),
            row("neuronsv2 / predictive-coding:variant=zil", 0.95, control=True),
            row("transformer / backprop", 0.90),
            {"label": "mlp / odd", "model": "mlp", "rule": "odd", "n": 0, "unsupported": "cannot train a plain mlp"},
        ],
        "floors": {"majority": 0.101, "nb-svm": 0.82},
        "pairs": [],
        "requirements": [],
        "verdict": "transformer / backprop is ahead by 9.0 points.",
        "warnings": ["neuronsv2 is below a floor", "mlp / odd: cannot train a plain mlp"],
    } | changes
