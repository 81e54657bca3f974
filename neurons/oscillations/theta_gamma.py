"""Theta-gamma attention: a slow and a fast rhythm per head, so that a gamma slot lies within a theta slot."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.ops.coherence_product import COMBINES, Combine, disc_points, product_attention, short_series
from neurons.oscillations.kuramoto import mean_field
from neurons.oscillations.rhythm import CENTRE, equal_ratios, gamma_band, rhythm
from neurons.specs import Context


@ATTENTIONS.register("theta_gamma")
class ThetaGammaAttention(Attention):
    """Coherence of two rhythms per head, ``k_gamma(dphi) k_theta(dtheta)`` or their mixture; O(T), zero parameters.

    In head h the first two channels of a token are its gamma oscillator, the next two its theta oscillator: complex
    numbers, mapped into the unit disc by ``s(w) = gain w / sqrt(1 + gain^2 |w|^2)`` and turned by the head's rhythms,
    ``e^{2 pi i f_h t_i}`` with ``t_i = i dt``. The values are the head's channels themselves. As in gamma attention
    only differences of phase act, and what comes before this layer learns to write them.

    A ``product`` holds more than one gamma frequency can: at a share of .8 for the right item, von Mises and kappa 4,
    20 items (5 gamma slots in 4 theta slots) against 5, see :func:`capacity`. A ``mixture`` links whatever shares
    either phase; it holds no more items, and costs F_gamma + F_theta features where the product costs F_gamma F_theta.

    heads: H; width must be a multiple of it, with at least four channels each.
    kernel, kappa: coherence kernel of both rhythms and its concentration. The series is as short as training allows
    (1e-3 of the kernel and of its derivative): features of the product, raised cosine 81, 225, 529 and von Mises 169,
    289, 625 at kappa 2, 4, 8. UsageError above 1089.
    gamma_share: weight of the gamma kernel in the mixture; theta has the rest.
    low, high: gamma frequencies of the heads in Hz, around 60.     theta_low, theta_high: their theta frequencies.
    dt: seconds per token.
    label: observables are left as ``<label>.R`` and ``<label>.R_theta`` (B, H), the order parameters over real tokens.

    Sources: Lisman & Jensen 2013 (theta-gamma code); Fries 2015 (communication through coherence).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        combine: Literal["product", "mixture"] = "product",
        kernel: str = "raised_cosine",
        kappa: float = 2.0,
        gamma_share: float = 0.5,
        gain: float = 3.0,
        low: float = 30.0,
        high: float = 100.0,
        theta_low: float = 4.0,
        theta_high: float = 8.0,
        dt: float = 0.001,
        label: str = "theta_gamma",
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads or width < 4 * heads:
            raise UsageError(f"width {width} does not split into {heads} heads of four channels or more. Try: heads=1")
        if combine not in COMBINES:
            raise UsageError(f"unknown combination '{combine}' of the two rhythms. Try: product, mixture")
        if not 0 < gamma_share < 1 or (combine == "product" and gamma_share != 0.5):
            raise UsageError(f"gamma_share is a weight in (0, 1) of a mixture, not {gamma_share}. Try: gamma_share=0.5")
        if not 0 < low <= CENTRE <= high:
            raise UsageError(f"the band must hold {CENTRE:g} Hz, not {low:g} to {high:g}. Try: low=30.0, high=100.0")
        if not 0 < theta_low <= theta_high:
            raise UsageError(
                f"theta goes from a lower to a higher frequency, not {theta_low:g} to {theta_high:g} Hz. Try: 4 and 8"
            )
        if gain <= 0 or dt <= 0:
            raise UsageError(f"gain and dt are above 0, not {gain} and {dt}. Try: gain=3.0, dt=0.001")
        self.width, self.is_causal, self.heads, self.combine = width, causal, heads, combine
        self.kernel, self.kappa, self.gamma_share, self.gain = kernel, kappa, gamma_share, gain
        self.low, self.high, self.theta_low, self.theta_high = low, high, theta_low, theta_high
        self.dt, self.label = dt, label
        self.series = short_series(kernel, kappa)
        self.gamma_frequencies = gamma_band(heads, low, high)
        self.theta_frequencies = equal_ratios(heads, theta_high, theta_low)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        value = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        gamma = self._oscillators(value[..., :2], self.gamma_frequencies)
        theta = self._oscillators(value[..., 2:4], self.theta_frequencies)
        if context.observables is not None:
            context.observables[f"{self.label}.R"] = _order_parameter(gamma, context.mask)
            context.observables[f"{self.label}.R_theta"] = _order_parameter(theta, context.mask)
        out = product_attention(
            (gamma, theta),
            value,
            (self.series, self.series),
            combine=self.combine,
            weights=(self.gamma_share, 1 - self.gamma_share) if self.combine == "mixture" else None,
            causal=self.is_causal,
            mask=context.mask,
        )
        return out.transpose(1, 2).flatten(2)

    def _oscillators(self, pairs: Tensor, frequencies: tuple[float, ...]) -> Tensor:
        """pairs (B, H, T, 2) -> points of the unit disc (B, H, T, 2), turned by the rhythm."""
        z = disc_points(pairs.to(torch.promote_types(pairs.dtype, torch.float32)), self.gain)
        cos, sin = rhythm(frequencies, self.dt, pairs.shape[2])
        cos, sin = cos.to(z), sin.to(z)
        return torch.stack([z[..., 0] * cos - z[..., 1] * sin, z[..., 0] * sin + z[..., 1] * cos], -1)


def _order_parameter(z: Tensor, mask: Tensor | None) -> Tensor:
    x, y = mean_field(*z.detach().unbind(-1), mask=None if mask is None else mask[:, None])
    return torch.hypot(x, y).squeeze(-1).float()


@torch.no_grad()
def own_share(
    gamma_slots: int,
    theta_slots: int = 1,
    *,
    combine: Combine = "product",
    kernel: str = "von_mises",
    kappa: float = 4.0,
) -> float:
    """Associative recall in one head: one item per pair of slots, equally spaced in both phases, each item its own
    value. The least share of the right item in what the cue of an item brings back; 1 is perfect recall."""
    gamma = 2 * math.pi / gamma_slots * torch.arange(gamma_slots, dtype=torch.float64).repeat_interleave(theta_slots)
    theta = 2 * math.pi / theta_slots * torch.arange(theta_slots, dtype=torch.float64).repeat(gamma_slots)
    points = [torch.stack([phase.cos(), phase.sin()], -1)[None, None] for phase in (gamma, theta)]
    items = torch.eye(len(gamma), dtype=torch.float64)[None, None]
    series = (short_series(kernel, kappa),) * 2
    return product_attention(points, items, series, combine=combine)[0, 0].diagonal().min().item()


def capacity(
    *,
    rhythms: Literal[1, 2] = 2,
    combine: Combine = "product",
    kernel: str = "von_mises",
    kappa: float = 4.0,
    share: float = 0.8,
    most: int = 12,
) -> tuple[int, int]:
    """(gamma slots, theta slots), at most ``most`` of each, of the greatest number of items that one head holds apart:
    each recalled with ``share`` or more by its own cue. One rhythm has a single theta slot."""
    grids = [(g, t) for g in range(1, most + 1) for t in range(1, most + 1 if rhythms == 2 else 2)]
    held = [grid for grid in grids if own_share(*grid, combine=combine, kernel=kernel, kappa=kappa) >= share]
    return max(held, key=lambda grid: (grid[0] * grid[1], grid[0]))
