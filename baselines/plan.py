"""What a run would do, told without training: the dry run."""

from __future__ import annotations

from typing import Any

import torch

from baselines import measure
from baselines.config import Resolved
from baselines.setup import setup


def plan(resolved: Resolved) -> dict[str, Any]:
    """What a run would do, without training: values with their origin, parameters, shapes, memory, steps."""
    config = resolved.config
    made = setup(config)
    batch = made.stream.batch(0).to(made.device)
    context = made.model.context(batch)
    shapes, x = [], batch.x
    made.model.eval()
    with torch.no_grad():
        for index, stage in enumerate(made.model.stages):
            x = stage(x, context)
            shapes.append({"stage": index, "name": type(stage).__name__, "output_shape": list(x.shape)})
    counts = made.model.parameter_counts()
    weights = 4 * counts["total"]
    memory = 4 * weights + measure.saved_activation_bytes(made.model, batch)
    steps, per_epoch = config["trainer"]["steps"], made.stream.steps_per_epoch
    return {
        "schema": 1,
        "kind": "plan",
        "config": config,
        "origin": resolved.origin,
        "parameters": counts,
        "stages": shapes,
        "memory_bytes": memory,
        "steps": steps,
        "steps_per_epoch": per_epoch,
        "epochs": steps / per_epoch,
        "task": {"protocol": made.data.protocol, "data_source": made.data.source, "split_hash": made.data.split_hash},
    }
