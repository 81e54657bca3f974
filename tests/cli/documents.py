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
