"""What all forms of coherence attention share: powers of z, kernel blocks, chunks and bands."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.ops.cosine_series import CosineSeries

Leak = float | tuple[float, ...]  # the same for all heads, or one per head


class Tokens(NamedTuple):
    """z (B, H, N, 2), points of the unit disc as keys, q as queries, and v (B, H, N, D + 1), values with a last column
    of ones.

    Rows that do not count (padding) are zero in v, so they enter neither numerator nor denominator.
    """

    z: Tensor
    q: Tensor
    v: Tensor

    def chunk(self, size: int) -> Tokens:
        """(B, H, N, ...) as (B, H, ceil(N / size), size, ...), padded with rows that do not count."""
        missing = -self.z.shape[2] % size
        return Tokens(*((F.pad(t, (0, 0, 0, missing)) if missing else t).unflatten(2, (-1, size)) for t in self))


def tokens_of(z: Tensor, query: Tensor | None, value: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tokens:
    """Tokens in ``dtype`` from z and query (B, H, N, 2), value (B, H, N, D) and mask (B, N)."""
    z = z.to(dtype)
    q = z if query is None else query.to(dtype)
    v = torch.cat([value, torch.ones_like(z[..., :1])], -1)  # cat converts on the way: one pass over memory, not three
    if mask is not None:
        hidden = ~mask[:, None, :, None]
        z, q, v = z.masked_fill(hidden, 0), q.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
    return Tokens(z, q, v)


def powers(z: Tensor, order: int) -> Tensor:
    """Real features of z (..., 2): [1, Re z^1 .. Re z^M, Im z^1 .. Im z^M], (..., 2M + 1).

    By doubling: the powers 1..k times z^k are the powers k+1..2k, so rounding grows with log M only.
    """
    re, im = z[..., :1], z[..., 1:]
    while (have := re.shape[-1]) < order:
        take = min(have, order - have)
        a, b, c, d = re[..., :take], im[..., :take], re[..., -1:], im[..., -1:]
        re, im = torch.cat([re, a * c - b * d], -1), torch.cat([im, a * d + b * c], -1)
    return torch.cat([torch.ones_like(z[..., :1]), re, im], -1)


def pairwise(query: Tensor, key: Tensor, series: CosineSeries, unit: bool) -> Tensor:
    """Kernel block (..., Q, K) of points query (..., Q, 2) and key (..., K, 2)."""
    if unit:
        return series.kernel(query @ key.transpose(-1, -2))
    left, right = powers(query, series.order), powers(key, series.order)
    return (left * series.weights(left)) @ right.transpose(-1, -2)


def band(
    queries: int, keys: int, offset: int, *, causal: bool, window: int | None, leak: Leak | None, like: Tensor
) -> Tensor:
    """Weights of the distance ``i - j``, where query 0 stands at key ``offset``: 0 outside the window or in the
    future, ``leak^|i - j|`` inside. (Q, K), or (H, ..., Q, K) to match ``like`` (B, H, ..., Q, K) if heads differ."""
    i = torch.arange(queries, device=like.device)[:, None] + offset
    distance = i - torch.arange(keys, device=like.device)
    inside = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        inside = inside & (distance.abs() < window)
    weight = inside.to(like.dtype)
    if leak is not None:
        weight = weight * forgetting(leak, distance.abs(), like)
    return weight


def forgetting(leak: Leak, age: Tensor, like: Tensor) -> Tensor:
    """``leak^age`` in the type of ``like`` (B, H, ...); age counts tokens.

    In the shape of age, or (H, 1, ..., *age.shape) so that it broadcasts with ``like`` if every head has its own leak.
    """
    if not isinstance(leak, tuple):
        return torch.exp(age.to(like.dtype) * math.log(leak))
    rate = torch.tensor([math.log(each) for each in leak], dtype=like.dtype, device=like.device)
    return torch.exp(age.to(like.dtype) * rate.reshape(-1, *[1] * (like.dim() - 2)))
