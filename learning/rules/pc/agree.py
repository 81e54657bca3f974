"""Decisions that several processes must take alike."""

from __future__ import annotations

import math

import torch
from torch import distributed


def agree(value: float) -> float:
    """The largest ``value`` of all processes; NaN counts as infinite. What is derived from a process's own batch and
    then decides how it settles (a stationarity, a curvature, a rise of the energy) passes through here."""
    value = math.inf if math.isnan(value) else value
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return float(shared)
