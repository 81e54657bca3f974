"""Rhythms: which frequencies oscillators have, and their phase at every token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CENTRE = 60.0  # Hz, middle of the gamma band


def gamma_band(count: int, low: float, high: float) -> tuple[float, ...]:
    """``count`` frequencies in Hz: low to 60 and 60 to high, each in equal ratios; 60 alone if count is one."""
    places = [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
    return tuple(
        low * (CENTRE / low) ** (2 * u) if u <= 0.5 else CENTRE * (high / CENTRE) ** (2 * u - 1) for u in places
    )


def equal_ratios(count: int, high: float, low: float) -> tuple[float, ...]:
    """``count`` frequencies from high down to low, each the same fraction of the one before."""
    return tuple(high * (low / high) ** (i / max(1, count - 1)) for i in range(count))


def rhythm(frequencies: tuple[float, ...], dt: float, steps: int, start: Tensor | int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin (H, T), float64, of ``2 pi f_h i dt`` for start <= i < start + steps.

    Whole cycles are dropped before the multiplication with 2 pi, so the phase of token 10^6 is as exact as that of
    token 1 (in float32 it would be .01 rad off).
    """
    hertz = torch.tensor(frequencies, dtype=torch.float64)
    cycles = torch.outer(hertz, (torch.arange(steps, dtype=torch.float64) + start) * dt)
    angle = 2 * math.pi * (cycles - cycles.floor())
    return torch.cos(angle), torch.sin(angle)
