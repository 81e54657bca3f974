"""Attention that emerges from gamma oscillations: heads are rhythms, tokens are phases, no learnable parameter."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.ops.coherence import check_options, disc_attention, working_dtype
from neurons.ops.cosine_series import cosine_series
from neurons.oscillations.rhythm import CENTRE, gamma_band, rhythm
from neurons.specs import Context

TINY = 1e-6  # radius below which a hidden state has no phase of its own


@ATTENTIONS.register("gamma")
class GammaAttention(Attention):
    """Coherence of gamma rhythms: ``out_i = sum_j k(z_i, z_j) v_j / sum_j k(z_i, z_j)``, O(T), zero parameters.

    The hidden state (B, T, width) is split in ``heads``. In head h the first two channels (a, b) of token i are read as
    a complex number and turned by the head's rhythm, ``z_i = s(a + ib) e^{2 pi i f_h t_i}`` with ``t_i = i dt``; the
    values are the head's channels themselves. Only phase differences act, so positions are relative, as in RoPE, and a
    token's index counts from the first column (padding on either side changes nothing). What comes before this layer
    learns to write the phases.

    heads: H; width must be a multiple of it, with at least two channels each.
    kernel, kappa: a registered coherence kernel and its concentration.
    form: ``amplitude`` maps smoothly into the unit disc, ``s(w) = gain w / sqrt(1 + gain^2 |w|^2)``, so a small w
    attends uniformly and its gradient is finite; ``phase`` takes ``s(w) = w / |w|`` (phase 0 where |w| < 1e-6).
    order: harmonics of the kernel's series; None chooses them for float32's precision.
    low, high: the heads' frequencies in Hz, in equal ratios from low to 60 Hz and from 60 Hz to high, end points
    included; a single rhythm beats at 60 Hz.
    dt: seconds per token.     content_heads: so many first heads have no rhythm and attend by content alone.
    mode, window, leak: as in :func:`neurons.ops.coherence.coherence_attention`.
    label: observables are left as ``<label>.R`` (B, H), the order parameter ``|mean_i z_i|`` over the real tokens.

    Sources: Fries 2015 (communication through coherence); Su et al. 2021 (RoPE); Katharopoulos et al. 2020.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        kernel: str = "von_mises",
        kappa: float = 4.0,
        form: Literal["amplitude", "phase"] = "amplitude",
        order: int | None = None,
        gain: float = 3.0,
        low: float = 30.0,
        high: float = 100.0,
        dt: float = 0.001,
        content_heads: int = 0,
        mode: Literal["series", "window", "dense"] = "series",
        window: int | None = None,
        leak: float | None = None,
        label: str = "gamma",
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads or width < 2 * heads:
            raise UsageError(f"width {width} does not split into {heads} heads of two channels or more. Try: heads=1")
        if form not in ("amplitude", "phase"):
            raise UsageError(f"unknown form '{form}' of gamma attention. Try: amplitude, phase")
        if not 0 < low <= CENTRE <= high:
            raise UsageError(f"the band must hold {CENTRE:g} Hz, not {low:g} to {high:g}. Try: low=30.0, high=100.0")
        if not 0 <= content_heads <= heads:
            raise UsageError(f"content_heads is 0 to {heads}, the number of heads, not {content_heads}. Try: 0")
        if gain <= 0 or dt <= 0:
            raise UsageError(f"gain and dt are above 0, not {gain} and {dt}. Try: gain=3.0, dt=0.001")
        check_options(mode=mode, causal=causal, window=window, leak=leak)
        self.width, self.is_causal, self.heads, self.kernel, self.kappa = width, causal, heads, kernel, kappa
        self.form, self.order, self.gain, self.low, self.high, self.dt = form, order, gain, low, high, dt
        self.content_heads, self.mode, self.window, self.leak, self.label = content_heads, mode, window, leak, label
        self.series = cosine_series(kernel, kappa, order)
        self.frequencies = (0.0,) * content_heads + gamma_band(heads - content_heads, low, high)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        value = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        z_x, z_y = self.oscillators(value)
        if context.observables is not None:
            context.observables[f"{self.label}.R"] = order_parameter(z_x, z_y, context.mask)
        out = disc_attention(
            z_x,
            z_y,
            value,
            self.series,
            unit=self.form == "phase",
            mode=self.mode,
            causal=self.is_causal,
            mask=context.mask,
            window=self.window,
            leak=self.leak,
        )
        return out.transpose(1, 2).flatten(2)

    def oscillators(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """x and y (B, H, T) of the tokens' points z of the unit disc, from value (B, H, T, width / H)."""
        dtype = working_dtype(value)
        a, b = value[..., 0].to(dtype), value[..., 1].to(dtype)
        squared = a * a + b * b
        if self.form == "amplitude":
            scale = self.gain * torch.rsqrt(1 + self.gain**2 * squared)
            a, b = a * scale, b * scale
        else:
            # both branches of `where` are finite, so that no NaN gradient comes from the branch not taken
            silent = squared < TINY**2
            scale = torch.rsqrt(squared.masked_fill(silent, 1.0))
            a, b = (a * scale).masked_fill(silent, 1.0), (b * scale).masked_fill(silent, 0.0)
        cos, sin = rhythm(self.frequencies, self.dt, value.shape[2])
        cos, sin = cos.to(a), sin.to(a)
        return a * cos - b * sin, a * sin + b * cos


def order_parameter(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Kuramoto's ``R = |mean_i z_i|`` (B, H) over the real tokens of x, y (B, H, T); mask (B, T). No gradient."""
    x, y = x.detach(), y.detach()
    if mask is None:
        return torch.hypot(x.mean(-1), y.mean(-1)).float()
    real = mask[:, None].to(x.dtype)
    count = real.sum(-1).clamp_min(1)
    return (torch.hypot((x * real).sum(-1), (y * real).sum(-1)) / count).float()
