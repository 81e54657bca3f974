"""Cross-attention by phase coherence: queries and keys are different tokens, and no query is among its keys.

    out_i = sum_j k(phi_i - psi_j) v_j / sum_j k(phi_i - psi_j)

Without a term of its own a query in antiphase to all keys has a denominator of ``n k(pi)``, e^(-2 kappa) of the sums
that make it: in float32 it comes out negative at kappa = 8. Here it is positive and right to 1e-6: the series goes in
float64 with all harmonics that rounding has left, and where k(pi) is below SAFE of k(0), as for von Mises above
kappa = 8, no series does and the exact kernel takes its place, at O(n^2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.ops.coherence_parts import powers
from neurons.ops.cosine_series import CosineSeries, cosine_coefficients, cosine_series

SAFE = 1e-7  # of k(0): the coefficients' own rounding, 1e-14 of it in all, is 1e-7 of that


def cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kernel: str = "von_mises",
    kappa: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    """The average (B, H, Q, D) of ``value`` (B, H, K, D) at phases ``key`` (B, H, K), seen from ``query`` (B, H, Q).

    mask: (B, K) bool, True = a real key. A query that no key reaches (k = 0 for all, or none is real) gets zero.
    Raises UsageError for an unknown kernel, a kappa <= 0, and shapes that do not fit.
    """
    if key.shape != value.shape[:3] or query.shape[:2] != key.shape[:2]:
        raise UsageError(f"keys {tuple(key.shape)} and values {tuple(value.shape)} do not fit. Try: one value per key")
    if mask is not None:
        hidden = ~mask[:, None]
        key, value = key.masked_fill(hidden, 0), value.masked_fill(hidden[..., None], 0)
    series = cosine_series(kernel, kappa)
    wide = torch.float32 if value.device.type == "mps" else torch.float64
    with torch.autocast(value.device.type, enabled=False):
        q, k = (torch.stack([torch.cos(t.to(wide)), torch.sin(t.to(wide))], -1) for t in (query, key))
        least = float(series.kernel(torch.tensor(-1.0, dtype=torch.float64)))
        if least >= SAFE * series.peak and wide == torch.float64:
            order = int(cosine_coefficients(series.kernel).nonzero().max())
            out = _by_field(q, k, value, mask, cosine_series(kernel, kappa, order), least)
        elif kernel == "von_mises":
            # the softmax subtracts the greatest exponent of each row, so its denominators are 1 or more at any kappa
            real = None if mask is None else mask[:, None, None]
            out = F.scaled_dot_product_attention(q, k, value.to(wide), real, scale=kappa)
        else:
            out = _by_matrix(q, k, value, mask, series)
        if mask is not None:
            out = out.masked_fill(~mask.any(-1)[:, None, None, None], 0)
        return out.to(value.dtype)


def _by_field(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, series: CosineSeries, least: float
) -> Tensor:
    """One field of all keys, O(n). ``least`` is k(pi), which bounds the denominator of a query that has a key."""
    f, q = powers(key, series.order), powers(query, series.order)
    if mask is not None:
        f = f.masked_fill(~mask[:, None, :, None], 0)
    q = q * series.weights(q)
    num = q @ (f.transpose(-1, -2) @ value.to(f.dtype))
    den = q @ f.sum(2).unsqueeze(-1)
    return num / den.clamp_min(least / 2)


def _by_matrix(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, series: CosineSeries) -> Tensor:
    """The kernel of all pairs."""
    k = series.kernel(query @ key.transpose(-1, -2))
    if mask is not None:
        k = k.masked_fill(~mask[:, None, None], 0)
    den = k.sum(-1, keepdim=True)
    return (k @ value.to(k.dtype)) / den.masked_fill(den == 0, 1)
