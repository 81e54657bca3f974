"""Decay rates and frequencies of a bank of damped resonators."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError

ONE = math.log(math.e - 1)  # softplus(ONE) = 1
GOLDEN = (math.sqrt(5) - 1) / 2


class Poles(nn.Module):
    """``exp((-alpha_k + i omega_k) dt)``, stable whatever is learned: ``alpha_k = softplus(a_k) / tau_k``,
    ``omega_k = 2 pi q_k / tau_k``, k = 1 .. modes.

    a and q are learned; both are pure numbers near 1, so that one learning rate suits time constants of milliseconds
    and of minutes. tau_k, in seconds, falls in equal ratios from ``longest`` to ``dt``: all time scales alike. q_k, the
    cycles within a time constant, starts spread evenly over 0 .. ``cycles`` (multiples of the golden ratio, so that
    neighbouring time constants get unlike ones), but below the Nyquist frequency. cycles = 0: nothing oscillates, the
    bank is one of leaky integrators, and q is no parameter.
    dt: seconds per token. Source: Gu et al. 2022 (S4D-Lin: equal decay, frequencies in equal steps).
    """

    scale: Tensor

    def __init__(self, modes: int, *, dt: float, longest: float, cycles: float) -> None:
        super().__init__()
        if modes < 1:
            raise UsageError(f"modes is the number of resonators, 1 or more, not {modes}. Try: modes=64")
        if not 0 < dt <= longest:
            raise UsageError(f"time constants need 0 < dt <= longest, not dt={dt:g} and longest={longest:g}")
        if cycles < 0:
            raise UsageError(f"cycles within a time constant are 0 or more, not {cycles:g}. Try: cycles=4.0")
        self.dt = dt
        place = torch.linspace(0, 1, modes, dtype=torch.float64) if modes > 1 else torch.zeros(1, dtype=torch.float64)
        scale = longest * (dt / longest) ** place
        spread = cycles * (GOLDEN * torch.arange(1, modes + 1, dtype=torch.float64) % 1)
        self.register_buffer("scale", scale.float(), persistent=False)  # follows from the options
        self.decay = nn.Parameter(torch.full((modes,), ONE))
        start = torch.minimum(spread, scale / (2 * dt)).float()
        self.turns = nn.Parameter(start) if cycles else None

    def forward(self) -> tuple[Tensor, Tensor]:
        """(rate, angle) per token, each (modes,): ``alpha dt`` and ``omega dt``."""
        unit = self.dt / self.scale
        rate = F.softplus(self.decay) * unit
        return rate, torch.zeros_like(rate) if self.turns is None else 2 * math.pi * self.turns * unit

    def seconds(self) -> Tensor:
        """Time constants 1 / alpha (modes,) in seconds."""
        return self.scale / F.softplus(self.decay.detach())

    def hertz(self) -> Tensor:
        """Frequencies omega / 2 pi (modes,) in Hz."""
        return torch.zeros_like(self.scale) if self.turns is None else self.turns.detach() / self.scale
