"""Seeds. The seed of step i is a pure function of (seed, i, rank), so resuming needs no generator state."""

from __future__ import annotations

import random

import numpy as np
import torch

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


def step_seed(seed: int, i: int, rank: int = 0) -> int:
    """A well mixed 63-bit seed of (seed, i, rank).

    Each argument is absorbed by the splitmix64 finaliser (Steele, Lea and Flood, 2014), so neighbouring steps, seeds
    and ranks share no structure and (1, 0) differs from (0, 1).
    """
    state = 0
    for word in (seed, i, rank):
        state = _mix((state + _GOLDEN + (word & _WORD)) & _WORD)
    return state >> 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy's global generator and torch on every device."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  (parts from elsewhere may draw from the global generator)
    torch.manual_seed(seed)


def seed_step(seed: int, i: int, device: torch.device, rank: int = 0) -> None:
    """As ``seed_everything(step_seed(seed, i, rank))``, for the CPU and ``device`` only.

    ``torch.manual_seed`` records a stack trace while CUDA is not initialised: 0.1 to 0.4 ms at every step.
    """
    value = step_seed(seed, i, rank)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # noqa: NPY002
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
