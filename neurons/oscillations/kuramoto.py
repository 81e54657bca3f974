"""Kuramoto's model: oscillators that pull each other into step through their mean field, and a mixer made of it.

    dphi_i/dt = omega_i + (K / N) sum_j sin(phi_j - phi_i) = omega_i + K R sin(psi - phi_i),
    R e^{i psi} = (1 / N) sum_j e^{i phi_j}

The order parameter R is 0 for incoherence and 1 for synchrony. With K > 0 the coupling attracts. Sums over pairs become
one mean, so a step costs O(N); sources: Kuramoto 1975; Strogatz 2000; Miyato et al. 2025 (oscillators as neurons).
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.ops.coherence_product import disc_points
from neurons.oscillations.rhythm import CENTRE, gamma_band, rhythm
from neurons.specs import Context


def mean_field(x: Tensor, y: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> tuple[Tensor, Tensor]:
    """``R cos psi`` and ``R sin psi`` of points x + iy (..., N): (..., 1), or when causal (..., N), over 0 .. i.

    mask: bool, broadcastable to x; only True points count. Where none does, the field is zero.
    """
    if mask is None:
        count = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    else:
        count = mask.to(x.dtype)
        x, y = x.masked_fill(~mask, 0), y.masked_fill(~mask, 0)
    if causal:
        seen = count.cumsum(-1).clamp_min(1)
        return x.cumsum(-1) / seen, y.cumsum(-1) / seen
    seen = count.sum(-1, keepdim=True).clamp_min(1)
    return x.sum(-1, keepdim=True) / seen, y.sum(-1, keepdim=True) / seen


def velocity(
    phase: Tensor, omega: Tensor, coupling: float, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """dphi/dt in rad/s of phase (..., N) in rad, omega (..., N) in rad/s, coupling K in rad/s; O(N).

    When causal, oscillator i feels 0 .. i only.
    """
    cos, sin = torch.cos(phase), torch.sin(phase)
    field_cos, field_sin = mean_field(cos, sin, mask=mask, causal=causal)
    return omega + coupling * (field_sin * cos - field_cos * sin)


def velocity_reference(
    phase: Tensor, omega: Tensor, coupling: float, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """The oracle of :func:`velocity`: the sum over all pairs, O(N^2)."""
    felt = torch.ones_like(phase, dtype=torch.bool) if mask is None else mask.expand_as(phase)
    pairs = felt[..., None, :].expand(*phase.shape, -1)
    pairs = (pairs.tril() if causal else pairs).to(phase.dtype)
    pulls = torch.sin(phase[..., None, :] - phase[..., :, None]) * pairs
    return omega + coupling * pulls.sum(-1) / pairs.sum(-1).clamp_min(1)


def kuramoto_step(
    phase: Tensor, omega: Tensor, *, coupling: float, dt: float, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """phase (..., N) after ``dt`` seconds, by the classical Runge-Kutta method (error dt^4). Phases are not wrapped."""

    def rate(at: Tensor) -> Tensor:
        return velocity(at, omega, coupling, mask=mask, causal=causal)

    k1 = rate(phase)
    k2 = rate(phase + dt / 2 * k1)
    k3 = rate(phase + dt / 2 * k2)
    k4 = rate(phase + dt * k3)
    return phase + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def integrate(
    phase: Tensor,
    omega: Tensor,
    *,
    coupling: float,
    dt: float,
    steps: int,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """phase (..., N) after ``steps`` steps of ``dt`` seconds.

    UsageError for a dt that is not above zero or negative steps.
    """
    if dt <= 0 or steps < 0:
        raise UsageError(f"integration goes forward in time, not {steps} steps of {dt} s. Try: dt=0.001, steps=100")
    for _ in range(steps):
        phase = kuramoto_step(phase, omega, coupling=coupling, dt=dt, mask=mask, causal=causal)
    return phase


@ATTENTIONS.register("kuramoto")
class KuramotoAttention(Attention):
    """Tokens synchronise: channel pairs are oscillators that a head's mean field pulls into step; O(T), no parameter.

    Every pair (a, b) of a token's channels is an oscillator w = a + ib with z = s(w) e^{2 pi i f_h t_i} in the unit
    disc, ``s(w) = gain w / sqrt(1 + gain^2 |w|^2)``, ``t_i = i dt``. All oscillators of a head, over pairs and tokens,
    are one population. In the frame that turns with the rhythm they have no frequency of their own, so for ``steps``
    Euler steps

        phi <- phi + coupling |z| R sin(psi - phi),     R e^{i psi} = mean z      (over tokens j <= i when causal)

    and the pair is written back at its new phase: ``out = w e^{i (phi_end - phi_start)}``. Amplitudes stay, what tokens
    share is drawn together, and a silent pair neither pulls nor turns, so gradients are finite at zero.

    heads: H populations; width must split into H heads of channel pairs.
    coupling: K times the Euler step; 0 < coupling < 2, beyond which a synchronous population overshoots for ever.
    low, high: the heads' frequencies in Hz, around 60.     dt: seconds per token.
    content_heads: so many first heads have no rhythm, so that position does not matter to them.
    label: observables are left as ``<label>.R`` (B, H), the order parameter at the end, over the real tokens.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        coupling: float = 1.0,
        steps: int = 4,
        gain: float = 3.0,
        low: float = 30.0,
        high: float = 100.0,
        dt: float = 0.001,
        content_heads: int = 0,
        label: str = "kuramoto",
    ) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads):
            raise UsageError(f"width {width} does not split into {heads} heads of channel pairs. Try: heads=1")
        if not 0 < coupling < 2:
            raise UsageError(f"coupling lies between 0 and 2, not {coupling}. Try: coupling=1.0")
        if steps < 1:
            raise UsageError(f"oscillators couple for one step or more, not {steps}. Try: steps=4")
        if not 0 < low <= CENTRE <= high:
            raise UsageError(f"the band must hold {CENTRE:g} Hz, not {low:g} to {high:g}. Try: low=30.0, high=100.0")
        if not 0 <= content_heads <= heads:
            raise UsageError(f"content_heads is 0 to {heads}, the number of heads, not {content_heads}. Try: 0")
        if gain <= 0 or dt <= 0:
            raise UsageError(f"gain and dt are above 0, not {gain} and {dt}. Try: gain=3.0, dt=0.001")
        self.width, self.is_causal, self.heads, self.coupling, self.steps = width, causal, heads, coupling, steps
        self.gain, self.low, self.high, self.dt = gain, low, high, dt
        self.content_heads, self.label = content_heads, label
        self.frequencies = (0.0,) * content_heads + gamma_band(heads - content_heads, low, high)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        with torch.autocast(x.device.type, enabled=False):
            pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (self.heads, -1, 2))
            a, b = pairs.permute(4, 0, 2, 3, 1)  # (B, H, pairs, T) each
            cos, sin = rhythm(self.frequencies, self.dt, x.shape[1])
            cos, sin = cos.to(a)[:, None], sin.to(a)[:, None]
            u, w = disc_points(torch.stack([a, b], -1), self.gain).unbind(-1)
            u, w = u * cos - w * sin, u * sin + w * cos
            turned = torch.zeros_like(a)
            for _ in range(self.steps):
                field_cos, field_sin = _population_field(u, w, context.mask, self.is_causal)
                angle = self.coupling * (field_sin * u - field_cos * w)
                turned, (u, w) = turned + angle, _rotated(u, w, angle)
            if context.observables is not None:
                field = _population_field(u.detach(), w.detach(), context.mask, causal=False)
                context.observables[f"{self.label}.R"] = torch.hypot(*field).flatten(1).float()
            out = torch.stack(_rotated(a, b, turned), -1).permute(0, 3, 1, 2, 4).flatten(2).to(x.dtype)
        return out if context.mask is None else out.masked_fill(~context.mask[..., None], 0)


def _population_field(u: Tensor, w: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """The mean field (B, H, 1, 1), or when causal (B, H, 1, T), of the oscillators u + iw (B, H, pairs, T)."""
    real = None if mask is None else mask[:, None, None]
    return mean_field(u.mean(2, keepdim=True), w.mean(2, keepdim=True), mask=real, causal=causal)


def _rotated(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return x * cos - y * sin, x * sin + y * cos
