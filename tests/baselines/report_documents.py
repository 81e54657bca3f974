"""Comparison documents for the tests of the report; every number is made up by a formula, none was measured."""

from __future__ import annotations

import math
from typing import Any

STEPS = range(0, 3001, 150)


def _row(model: str, rule: str, values: list[float], level: int) -> dict[str, Any]:
    n, mean = len(values), sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else 0.0
    half = 4.302652729911275 * deviation / math.sqrt(n)  # t(0.975, 2), right for three seeds
    gamma = model == "neuronsv2"
    lengths = [1024, 2048, 4096, 8192, 16384]
    exponent = 1.04 if gamma else 1.93
    noise = (1.03, 0.98, 1.0, 0.99, 1.02)
    ends = {"low": mean - half, "high": mean + half} if n > 1 else {"low": None, "high": None}
    return {
        "label": f"{model} / {rule}",
        "model": model,
        "rule": rule.split(":")[0],
        "rule_options": {"variant": "zil"} if "zil" in rule else {},
        "control": "zil" in rule,
        "local": rule.startswith("predictive"),
        "n": n,
        "value": {"mean": mean, **ends, "values": values},
        "held_out": {"mean": mean + 0.0037},
        "parameters": {
            "total": 4_263_170,
            "trainable": 4_263_170,
            "non_embedding": 263_170 + 131_001 * (not gamma),
            "attention": 0 if gamma else 66_048,
            "state_bytes": 0,
        },
        "train": {
            "seconds": 212.4 * (1 + 3.4 * level),
            "steps": 3000.0,
            "samples_per_second": 1337.0 / (1 + 3.4 * level),
            "tokens_per_second": 33_425.0 / (1 + 3.4 * level),
        },
        "inference": {"latency_ms": 1.873 + level * 0.013 + gamma, "samples_per_second": 8_412.5 - 31 * level},
        "memory": {
            "peak_bytes": 734_003_200 + level * 9_000_000,
            "saved_activation_bytes": 12_582_912 - 2_621_440 * level,
        },
        "cost": {"train_macs": 4.117e13 * (1 + 6.5 * level) * (1.4 - 0.4 * gamma), "inference_macs": 28_311_552},
        "attention_scaling": {
            "exponent": exponent,
            "low": exponent - 0.05,
            "high": exponent + 0.05,
            "lengths": lengths,
            "seconds": [2e-3 * (at / 1024) ** exponent * off for at, off in zip(lengths, noise, strict=True)],
        },
        "cosine_to_backprop": {"start": 1.0 - 0.0183 * level, "end": 1.0 - 0.0621 * level},
        "stationarity": None if level == 0 else 0.00173 * level,
        "passes": 1.0 + 9.5 * level,
    }


def _curve(final: float, seed: int, seconds: float) -> dict[str, Any]:
    points = [
        {
            "step": step,
            "seconds": seconds * step / STEPS[-1] * (1 + 0.02 * seed),
            "loss": 0.69 * math.exp(-step / 900) + 0.1,
            "value": final - (final - 0.5) * math.exp(-step / (420 + 40 * seed)) + 0.004 * math.sin(step / 170 + seed),
        }
        for step in STEPS
    ]
    return {"seed": seed, "points": points}


def _pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As baselines.compare pairs them: rows that share a model or a rule."""
    found = []
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            if a["model"] == b["model"] or a["rule"] == b["rule"]:
                gap = a["value"]["mean"] - b["value"]["mean"]
                found.append(
                    {
                        "a": a["label"],
                        "b": b["label"],
                        "difference": gap,
                        "low": gap - 0.0113,
                        "high": gap + 0.0113,
                        "n": 3,
                        "p": 0.0471 + 0.01 * i,
                    }
                )
    return found


def full() -> dict[str, Any]:
    """Two models, three rules (one a control), three seeds, floors near and far, a warning, an unsupported row."""
    rows = [
        _row("neuronsv2", "backprop", [0.8171, 0.8234, 0.8202], 0),
        _row("neuronsv2", "predictive-coding", [0.8083, 0.8147, 0.8101], 1),
        _row("neuronsv2", "predictive-coding:variant=zil", [0.8169, 0.8231, 0.8207], 2),
        _row("transformer", "backprop", [0.8119, 0.8142, 0.8187], 0),
        _row("transformer", "predictive-coding", [0.7901, 0.7987, 0.7822], 1),
    ]
    curves = {
        row["label"]: [
            _curve(value, seed, row["train"]["seconds"]) for seed, value in enumerate(row["value"]["values"])
        ]
        for row in rows
    }
    results = [
        {
            "status": "complete",
            "model": {"name": row["model"]},
            "rule": {"name": row["rule"]},
            "seed": seed,
            "primary": {"name": "accuracy", "value": value, "higher_is_better": True},
            "train": {"seconds": row["train"]["seconds"] * (1 + 0.02 * seed), "steps": 3000},
            "stopped_by": "steps",
            "warnings": ["below a floor: 0.790 against nb-svm 0.796"] if value < 0.7960 else [],
        }
        for row in rows
        for seed, value in enumerate(row["value"]["values"])
    ]
    refused = {
        "label": "transformer / predictive-coding:variant=zil",
        "model": "transformer",
        "rule": "predictive-coding",
        "n": 0,
        "unsupported": "stages share a tensor, which Z-IL cannot relax",
    }
    return {
        "schema": 1,
        "kind": "compare",
        "task": {
            "name": "listops-short",
            "protocol": "classification, 10 labels, lengths 10-100; 10 % of train held out",
            "split_hash": "9f2c41d07be8a356",
            "data_source": "generated (seed 0), our grammar of fewer levels",
        },
        "budget": {"match": "steps", "value": 3000, "unit": "steps"},
        "seeds": [0, 1, 2],
        "primary": {"name": "accuracy", "higher_is_better": True},
        "rows": [*rows, refused],
        "floors": {"majority": 0.5092, "nb-svm": 0.7964, "prototype": 0.7941},
        "pairs": _pairs(rows),
        "requirements": [
            {
                "expression": "neuronsv2 / backprop > transformer / backprop",
                "met": False,
                "difference": 0.0053,
                "low": -0.0060,
                "high": 0.0166,
            },
        ],
        "verdict": "On listops-short, neuronsv2 / backprop and transformer / backprop cannot be told apart "
        "(+0.5 points), 95 % interval -0.6 to +1.7, 3 seeds.",
        "warnings": ["transformer / predictive-coding (0.790) is below a floor: nb-svm 0.796, prototype 0.794"],
        "curves": curves,
        "results": results,
        "env": {
            "python": "3.11.2",
            "torch": "2.13.0",
            "numpy": "2.3.0",
            "neurons": "0.1.0",
            "platform": "made up",
            "cpu": "made up",
            "gpu": None,
            "threads": 2,
            "git_revision": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
        },
        "recipe": None,
        "command": "neurons compare --task listops-short --models neuronsv2,transformer "
        "--rules backprop,predictive-coding --seeds 3",
    }


def bare() -> dict[str, Any]:
    """One seed, one row, and nothing that may be missing."""
    return {
        "schema": 1,
        "kind": "compare",
        "task": {"name": "digits", "protocol": None, "split_hash": None, "data_source": None},
        "budget": {"match": "none", "value": None, "unit": "gathered runs"},
        "seeds": [0],
        "primary": {"name": "perplexity", "higher_is_better": False},
        "rows": [
            {
                "label": "mlp / backprop",
                "model": "mlp",
                "rule": "backprop",
                "n": 1,
                "control": False,
                "unsupported": None,
                "value": {"mean": 31.4159, "low": None, "high": None, "values": [31.4159]},
                "train": {"seconds": float("nan")},
                "attention_scaling": None,
                "cosine_to_backprop": None,
                "stationarity": None,
            },
        ],
        "floors": {},
        "pairs": [],
        "requirements": [],
        "warnings": [],
        "curves": {"mlp / backprop": [{"seed": 0, "points": []}]},
        "results": [],
        "env": {},
        "recipe": None,
        "command": None,
        "verdict": "mlp / backprop reaches 31.42 perplexity on digits.",
    }
