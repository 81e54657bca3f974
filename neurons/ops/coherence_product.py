"""Coherence of several rhythms at once: a token is a point of the unit disc per rhythm, and the kernels combine.

    product   k(i, j) = prod_l k_l(z_li, z_lj)          both rhythms must agree: a slot of a slot
    mixture   k(i, j) = sum_l w_l k_l(z_li, z_lj)       either may agree
    out_i = sum_j k(i, j) v_j / sum_j k(i, j)           (j <= i when causal)

with ``k_l(z, z') = sum_m c_m Re (z conj z')^m``, which is the kernel itself on the circle. Each k_l is a scalar product
of F_l = 2 M_l + 1 features, so a mixture has sum F_l features and a product prod F_l, and both cost O(n) times that.

Sources: Lisman & Jensen 2013 (theta-gamma code); Katharopoulos et al. 2020 (linear attention).
Shapes: points, a sequence of (B, H, N, 2); value (B, H, N, D); mask (B, N) bool, True = real -> (B, H, N, D).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.errors import UsageError, nearest
from neurons.ops.coherence_parts import powers
from neurons.ops.cosine_series import CosineSeries, cosine_series

Combine = Literal["product", "mixture"]
COMBINES = ("product", "mixture")
TRAINING = (
    1e-3  # of k(0), for the tail of a kernel and of its derivative: gradients that training cannot tell from exact
)
MOST_FEATURES = 1089  # 33^2: with more, the dense form is faster up to thousands of tokens
FLOAT32_BELOW = 512  # longer sums cancel too much in float32, as in neurons.ops.coherence
DENSE_BELOW = 128  # all pairs cost less than the features of this many tokens
CHUNK, SEGMENT = 64, 1024


def short_series(kernel: str = "raised_cosine", kappa: float = 2.0, tolerance: float = TRAINING) -> CosineSeries:
    """The shortest series whose tail ``sum_{m>M} m |c_m|`` is at most ``tolerance`` of k(0).

    Features 2M + 1 at 1e-3: raised cosine 9, 15, 23 and von Mises 13, 17, 25 at kappa 2, 4, 8. The raised cosine of
    kappa 2 is exact. Unlike exact kernels, a truncated one can be negative, by less than ``tolerance``.
    """
    exact = cosine_series(kernel, kappa)
    order, tail = exact.order, 0.0
    while order > 1 and tail + order * abs(exact.coefficients[order]) <= tolerance * exact.peak:
        tail += order * abs(exact.coefficients[order])
        order -= 1
    return cosine_series(kernel, kappa, order)


def disc_points(pairs: Tensor, gain: float) -> Tensor:
    """Channel pairs (..., 2) mapped smoothly into the unit disc, ``gain w / sqrt(1 + gain^2 |w|^2)``.

    The gradient is finite at the origin, where a phase has none.
    """
    return pairs * (gain * torch.rsqrt(1 + gain**2 * pairs.square().sum(-1, keepdim=True)))


def product_attention(
    points: Sequence[Tensor],
    value: Tensor,
    series: Sequence[CosineSeries],
    *,
    combine: Combine = "product",
    weights: Sequence[float] | None = None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """The average above in O(n): features, and for causal a prefix over chunks that see each other exactly. Up to 128
    tokens go by all pairs.

    ``weights`` are the w_l of a mixture; None gives equal shares. Masked tokens neither attend nor are attended to, and
    their output is zero. Sums of more than 512 tokens are float64. Without gradients the memory is that of a segment
    of 1024 tokens; with them, the features of all tokens are kept.

    UsageError for an unknown combine, weights that do not fit it, or more than 1089 features.
    """
    law = _law(series, combine, weights)
    n = value.shape[2]
    wide = torch.float32 if n <= FLOAT32_BELOW or value.device.type == "mps" else torch.float64
    dtype = torch.promote_types(value.dtype, wide)
    with torch.autocast(value.device.type, enabled=False):
        z = [point.to(dtype) for point in points]
        v = torch.cat([value.to(dtype), value.new_ones(*value.shape[:-1], 1, dtype=dtype)], -1)
        if mask is not None:
            hidden = ~mask[:, None, :, None]
            z, v = [point.masked_fill(hidden, 0) for point in z], v.masked_fill(hidden, 0)
        if n <= DENSE_BELOW:
            k = law.pairwise(law.each(z))
            sums = (k.tril() if causal else k) @ v
        else:
            cuts = [slice(start, start + SEGMENT) for start in range(0, n, SEGMENT)]
            segments = [([point[:, :, cut] for point in z], v[:, :, cut]) for cut in cuts]
            sums = torch.cat(list(_causal(segments, law) if causal else _full(segments, law)), 2)
        out = (sums[..., :-1] / sums[..., -1:].clamp_min(law.floor)).to(value.dtype)
        return out if mask is None else out.masked_fill(~mask[:, None, :, None], 0)


def product_attention_reference(
    points: Sequence[Tensor],
    value: Tensor,
    series: Sequence[CosineSeries],
    *,
    combine: Combine = "product",
    weights: Sequence[float] | None = None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """The oracle: all pairs in polar coordinates, ``k_l = sum_m c_m (r r')^m cos m(phi - phi')``. Points off 0."""
    shares = _law(series, combine, weights).shares
    total: Tensor | None = None
    for point, one, share in zip(points, series, shares, strict=True):
        radius, phase = point.norm(dim=-1), torch.atan2(point[..., 1], point[..., 0])
        rho, delta = radius[..., :, None] * radius[..., None, :], phase[..., :, None] - phase[..., None, :]
        k = sum(
            (c * rho**m * torch.cos(m * delta) for m, c in enumerate(one.coefficients)), start=torch.zeros_like(rho)
        )
        if combine == "product":
            total = k if total is None else total * k
        else:
            total = share * k if total is None else total + share * k
    assert total is not None
    total = total.tril() if causal else total
    total = total if mask is None else total.masked_fill(~mask[:, None, None, :], 0)
    out = total @ value / total.sum(-1, keepdim=True)
    return out if mask is None else out.masked_fill(~mask[:, None, :, None], 0)


class _Law(NamedTuple):
    """How the kernels combine; ``floor`` is the least weight that a token gives to itself."""

    series: tuple[CosineSeries, ...]
    combine: Combine
    shares: tuple[float, ...]
    floor: float

    def each(self, points: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per rhythm, the features (..., F_l) of keys and, with the coefficients and shares in them, of queries."""
        pairs = []
        for point, one, share in zip(points, self.series, self.shares, strict=True):
            features = powers(point, one.order)
            pairs.append((features, features * (share * one.weights(features))))
        return pairs

    def joint(self, parts: Sequence[Tensor]) -> Tensor:
        """The features of all rhythms together, (..., F)."""
        if self.combine == "mixture":
            return torch.cat(list(parts), -1)
        joined = parts[0]
        for part in parts[1:]:
            joined = (joined[..., :, None] * part[..., None, :]).flatten(-2)
        return joined

    def pairwise(self, each: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Kernel block (..., C, C); never through the joint features."""
        blocks = torch.stack([query @ key.transpose(-1, -2) for key, query in each])
        return blocks.sum(0) if self.combine == "mixture" else blocks.prod(0)


def _law(series: Sequence[CosineSeries], combine: str, weights: Sequence[float] | None) -> _Law:
    if combine not in COMBINES:
        raise UsageError(
            f"unknown combination '{combine}' of kernels.{nearest(combine, COMBINES)} Try: product, mixture"
        )
    series, count = tuple(series), len(series)
    widths = [2 * one.order + 1 for one in series]
    if combine == "product":
        if weights is not None:
            raise UsageError("a product of kernels has no weights. Try: combine='mixture', or weights=None")
        features, floor = 1, 1.0
        for width, one in zip(widths, series, strict=True):
            features, floor = features * width, floor * one.coefficients[0]
        if features > MOST_FEATURES:
            raise UsageError(
                f"a product of {features} features is out of bounds ({MOST_FEATURES}). Try: a smaller kappa"
            )
        return _Law(series, "product", (1.0,) * count, floor)
    shares = tuple(weights) if weights is not None else (1 / count,) * count
    if len(shares) != count or min(shares) < 0 or not sum(shares) > 0:
        raise UsageError(f"a mixture of {count} kernels takes as many weights, none negative, not {shares}. Try: None")
    return _Law(series, "mixture", shares, sum(w * one.coefficients[0] for w, one in zip(shares, series, strict=True)))


def _full(segments: list[tuple[list[Tensor], Tensor]], law: _Law) -> Iterator[Tensor]:
    field = torch.stack([law.joint([key for key, _ in law.each(z)]).transpose(-1, -2) @ v for z, v in segments]).sum(0)
    for points, _ in segments:
        yield law.joint([query for _, query in law.each(points)]) @ field


def _causal(segments: list[tuple[list[Tensor], Tensor]], law: _Law) -> Iterator[Tensor]:
    state: Tensor | None = None
    for points, v in segments:
        n = v.shape[2]
        missing = -n % CHUNK
        chunks = [F.pad(t, (0, 0, 0, missing)).unflatten(2, (-1, CHUNK)) for t in (*points, v)]
        each, v = law.each(chunks[:-1]), chunks[-1]
        near = law.pairwise(each).tril() @ v
        fields = law.joint([key for key, _ in each]).transpose(-1, -2) @ v
        ends = fields.cumsum(2) if state is None else fields.cumsum(2) + state[:, :, None]
        before = ends - fields
        yield (near + law.joint([query for _, query in each]) @ before).flatten(2, 3)[:, :, :n]
        state = ends[:, :, -1]
