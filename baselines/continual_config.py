"""What ``neurons continual`` was asked for, as one resolved configuration. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from baselines import LEARNERS, STRATEGIES
from baselines.config import _assignments
from baselines.part import PARTS, Part
from neurons.errors import UsageError, nearest
from neurons.registry import describe
from tasks import STREAMS

STRATEGIES_SHOWN = ("naive", "joint", "ewc", "si", "lwf", "replay", "der++", "a-gem", "xdg")
MODEL = "mlp:width=200:dropout=0.0"  # 200-200, the field's usual net for digits


def resolve_continual(
    stream: str,
    *,
    strategies: Sequence[str] = (),
    model: str = MODEL,
    rule: str = "backprop",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    sets: Sequence[str] = (),
    scenario: str | None = None,
    epochs: int | None = None,
    split: str = "test",
    metrics_as: str = "chaudhry",
    every: int | None = None,
    device: str = "cpu",
    threads: int | None = 1,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """``strategies`` may name learners too, which bring their own model and rule. ``--set`` reaches stream.*, model.*,
    rule.*, trainer.* and the options of a strategy or learner by its name."""
    entry = STREAMS.entry(stream)
    trainer = describe("baselines.continual", "GradientLearner")
    parts = [_named(text) for text in strategies or STRATEGIES_SHOWN]
    chosen = {"model": Part.parse("model", model), "rule": Part.parse("rule", rule)}
    taken: dict[str, dict[str, Any]] = {}
    for section, key, value in _assignments(sets):
        known = ["stream", "model", "rule", "trainer", *(part.name for _, part in parts)]
        if section not in known or (section == "trainer" and key in ("seed", "device")):
            raise UsageError(f"--set: unknown section '{section}'.{nearest(section, known)} Known: {', '.join(known)}")
        taken.setdefault(section, {})[key] = value
    if scenario is not None:
        taken.setdefault("stream", {})["scenario"] = scenario
    if epochs is not None:
        taken.setdefault("trainer", {})["epochs"] = epochs

    def filled(kind: str, part: Part, section: str) -> dict[str, Any]:
        described = PARTS[kind].entry(part.name)
        options = part.options if part.preset is None else described.preset(part.preset) | part.options
        set_ = described.validate(kind, taken.get(section, {}))
        return {"name": part.name, "options": described.defaults() | set_ | options}

    training = trainer.defaults() | trainer.validate("trainer", taken.get("trainer", {}))
    listed = [filled(kind, part, part.name) | {"kind": kind, "label": str(part)} for kind, part in parts]
    labels = [one["label"] for one in listed]
    if len(set(labels)) < len(labels) or len(set(seeds)) < len(seeds) or not seeds:
        raise UsageError("a strategy or seed is named twice, or none is: name each once")
    return {
        "schema": 1,
        "stream": {
            "name": stream, "options": entry.defaults() | entry.validate("stream", taken.get("stream", {})),
        },
        "model": filled("model", chosen["model"], "model"),
        "rule": filled("rule", chosen["rule"], "rule"),
        "trainer": {key: value for key, value in training.items() if key not in ("seed", "device")},
        "strategies": listed, "seeds": list(seeds), "split": split, "metrics_as": metrics_as, "every": every,
        "device": device, "threads": threads, "data_dir": data_dir or os.environ.get("NEURONS_DATA_DIR"),
    }  # fmt: skip


def _named(text: str) -> tuple[str, Part]:
    """ "learner" or "strategy", and the part; UsageError with the nearest name of both."""
    name = text.strip().partition(":")[0]
    known = [*STRATEGIES.names(), *LEARNERS.names()]
    if name not in known:
        more = "Try: neurons list strategies, neurons list learners"
        raise UsageError(f"unknown strategy '{name}'.{nearest(name, known)} {more}")
    kind = "learner" if name in LEARNERS.names() else "strategy"
    return kind, Part.parse(kind, text)
