"""Chunks of tokens for coherence attention: features, kernel blocks, mean fields and what a leak leaves. No autograd.

Shapes: b rows, H heads, P chunks of C tokens, G = b H P; F = 2 M + 1 features ``sqrt|c_m| (Re z^m, Im z^m)``, whose
scalar product is the kernel (the product with ``sign c_m``, for kernels that have negative coefficients).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

SILENCE = 1e-13  # of the weight at hand: what float64 leaves of a sum that cancels
LEAST = 1e-30  # denominators whose inverse, and what it is multiplied with, float32 still holds


class Plan(NamedTuple):
    """What is computed. coefficients c_0 .. c_M; fast_order: as many harmonics serve 1e-6 where float32 does. kappa: of
    von Mises, in closed form inside chunks, for points of the unit circle; 0 takes the series. leak: () or a factor per
    head. floor: the least denominator of a real token; 0 for queries with points of their own, to which none is sure.
    """

    coefficients: tuple[float, ...]
    fast_order: int
    kappa: float
    leak: tuple[float, ...]
    causal: bool
    floor: float


class Factors(NamedTuple):
    """Constants of a plan in shapes that broadcast with (b, H, P, ., .); None stands for 1.

    within (C, C): leak^|i - j| of the rows of a chunk, 0 for the future if causal.     row, rest (C, 1): what is left
    of a field from its chunk's start to a query, and of a key at the next chunk's start.     across (P + 1, P): what is
    left of chunk q's field at the start of chunk p > q.     before (P + 1, 1, 1): of a field from before the first.
    scale, slope (F,): sqrt|c_m|, and m sqrt|c_m|, from d z^m = m z^(m - 1) dz.     signs (F,): of c_m.
    """

    within: Tensor | None
    row: Tensor | None
    rest: Tensor | None
    across: Tensor
    before: Tensor | None
    scale: Tensor
    slope: Tensor
    signs: Tensor | None

    def mirrored(self) -> Factors:
        """For fields of the future: time runs backwards."""
        before = None if self.before is None else self.before.flip(-3)
        return self._replace(row=self.rest, rest=self.row, across=self.across.flip(-1, -2), before=before)


@lru_cache(maxsize=64)
def factors(plan: Plan, order: int, chunk: int, count: int, device: torch.device, dtype: torch.dtype) -> Factors:
    """For ``count`` chunks of ``chunk`` tokens and ``order`` harmonics, in ``dtype``."""
    wide = torch.float32 if device.type == "mps" else torch.float64
    row, start = torch.arange(chunk, device=device), torch.arange(count + 1, device=device)
    distance, behind = row[:, None] - row, start[:, None] - start[:-1] - 1
    past, across = distance >= 0, (behind >= 0).to(wide)
    c = torch.tensor(plan.coefficients[: order + 1], dtype=wide, device=device).repeat_interleave(2)[1:]
    signs = c.sign().to(dtype) if min(plan.coefficients) < 0 else None
    scale = c.abs().sqrt()
    slope = scale * torch.arange(order + 1, device=device).repeat_interleave(2)[1:]
    within, left, rest, before = past.to(dtype) if plan.causal else None, None, None, None
    if plan.leak:
        rate = torch.tensor([math.log(each) for each in plan.leak], dtype=wide, device=device).reshape(-1, 1, 1, 1)
        within = torch.exp(distance.abs() * rate)
        within = (within * past if plan.causal else within).to(dtype)
        left, rest = (torch.exp(age[:, None] * rate).to(dtype) for age in (row, chunk - row))
        across = across * torch.exp(chunk * behind.clamp_min(0) * rate[:, 0])
        before = torch.exp(chunk * start[:, None, None] * rate).to(dtype)
    return Factors(within, left, rest, across.to(dtype), before, scale.to(dtype), slope.to(dtype), signs)


class Stretch(NamedTuple):
    """u (G, C, 2): points.     v (G, C, D): values.     p (G, C, M): z^1 .. z^M, complex.     f, q (G, C, F): features
    of a token as a key and, with the coefficients' signs, as a query.     hidden (b, P C): True where a token does not
    count; it is zero in v and f.     shape: (b, H, P, C).     asking, asking_p: u and p of queries with points of their
    own, else None."""

    u: Tensor
    v: Tensor
    p: Tensor | None
    f: Tensor | None
    q: Tensor | None
    hidden: Tensor | None
    shape: tuple[int, int, int, int]
    asking: Tensor | None
    asking_p: Tensor | None

    def scaled(self, t: Tensor, factor: Tensor | None) -> Tensor:
        """t (G, C, .) times a factor that broadcasts with (b, H, P, C, .)."""
        return t if factor is None else (t.view(*self.shape, -1) * factor).view(t.shape)


def load(
    z: Tensor,
    v: Tensor,
    query: Tensor | None,
    mask: Tensor | None,
    chunk: int,
    dtype: torch.dtype,
    order: int,
    constants: Factors,
) -> Stretch:
    """z (b, H, n, 2), v (b, H, n, D), query as z or None, mask (b, n) as chunks, filled up with tokens that do not
    count; features in the type of ``constants``, values in ``dtype``. Order 0 makes no features."""
    b, heads, n, _ = z.shape
    hidden, v = None if mask is None else ~mask, v.to(dtype)
    if missing := -n % chunk:
        hidden = F.pad(z.new_zeros(b, n, dtype=torch.bool) if hidden is None else hidden, (0, missing), value=True)
        z, v = F.pad(z, (0, 0, 0, missing)), F.pad(v, (0, 0, 0, missing))
        query = None if query is None else F.pad(query, (0, 0, 0, missing))
    if hidden is not None:
        z, v = z.masked_fill(hidden[:, None, :, None], 0), v.masked_fill(hidden[:, None, :, None], 0)
        query = None if query is None else query.masked_fill(hidden[:, None, :, None], 0)
    shape = (b, heads, (n + missing) // chunk, chunk)
    z, v = z.reshape(-1, chunk, 2), v.reshape(-1, chunk, v.shape[-1])
    query = None if query is None else query.reshape(-1, chunk, 2)
    p = f = q = asking_p = None
    if order:
        p, f = _features(z, order, constants)
        if hidden is not None:
            f.view(b, heads, -1, f.shape[-1]).masked_fill_(hidden[:, None, :, None], 0)
        if query is None:
            q = f
        else:
            asking_p, q = _features(query, order, constants)
        q = q if constants.signs is None else q * constants.signs
    asking = None if query is None else query.to(dtype)
    return Stretch(z.to(dtype), v, p, f, q, hidden, shape, asking, asking_p)


def _features(z: Tensor, order: int, constants: Factors) -> tuple[Tensor, Tensor]:
    """Powers z^1 .. z^M (G, C, M) and features (G, C, F) of points z (G, C, 2), in the precision of ``constants``."""
    dtype = constants.slope.dtype
    p = powers_of(z, order).to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    f = torch.empty(*z.shape[:2], 2 * order + 1, dtype=dtype, device=z.device)
    f[..., 0] = constants.scale[0]
    torch.mul(torch.view_as_real(p).flatten(-2), constants.scale[1:], out=f[..., 1:])
    return p, f


def powers_of(z: Tensor, order: int) -> Tensor:
    """z^1 .. z^M (..., M), complex double where the device has it, of points z (..., 2)."""
    w = torch.view_as_complex(z if z.device.type == "mps" else z.double())
    return w[..., None].expand(*w.shape, order).cumprod(-1)


def kernel_block(s: Stretch, plan: Plan, constants: Factors) -> Tensor:
    """leak^|i - j| k(z_i, z_j) inside each chunk (G, C, C), zero for keys that do not count."""
    if plan.kappa:
        asking = s.u if s.asking is None else s.asking
        k = torch.baddbmm(s.u.new_full((1, 1, 1), -plan.kappa), asking, s.u.mT, alpha=plan.kappa).exp_()
    else:
        assert s.f is not None
        assert s.q is not None
        if s.asking is None:
            k = torch.bmm(s.q.to(s.v.dtype), s.f.to(s.v.dtype).mT)
        else:  # a sum of a few small terms, none of them a token's own, is as precise as they are
            k = torch.bmm(s.q, s.f.mT).to(s.v.dtype)
    if constants.within is not None:
        k.view(*s.shape, -1).mul_(constants.within.to(k))
    if s.hidden is not None:
        k.view(*s.shape, -1).masked_fill_(s.hidden.view(s.shape[0], 1, s.shape[2], 1, -1), 0)
    return k


class Chunks(Protocol):
    """shape: (b, H, P, C).     hidden (b, P C): True where a token does not count, or None."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def hidden(self) -> Tensor | None: ...


def inverse_of(den: Tensor, total: Tensor | None, s: Chunks, plan: Plan) -> Tensor:
    """1 / den (G, C, 1), in place; zero for tokens that do not count, and for queries that hear nothing.

    ``total``, (G, C, 1) or (G, 1, 1), is the weight of the keys in fields. Sums below SILENCE of it are rounding.
    """
    if plan.floor:
        den.clamp_min_(plan.floor)
    else:
        least = LEAST if plan.kappa else SILENCE * sum(plan.coefficients)
        den.masked_fill_(den <= (least if total is None else least + SILENCE * total), torch.inf)
    if s.hidden is not None:
        den.view(*s.shape).masked_fill_(s.hidden.view(s.shape[0], 1, *s.shape[2:]), torch.inf)
    return den.reciprocal_()


def gradient_along_circle(s: Stretch, of_log: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """The gradients of points of the unit circle (G, C, 2), tangential, from that of the logarithm of a von Mises block
    (G, C, C): of tokens, or of keys and queries.

    ``d log k_ij / d phi_i = kappa sin(phi_j - phi_i)``; by sines and not by ``sum_j u_j d log k_ij``, whose radial part
    is larger by far and leaves the rest with an error of 1e-5.
    """
    across = torch.stack([-s.u[..., 1], s.u[..., 0]], -1)
    if s.asking is None:
        turn = torch.bmm(across, s.u.mT).mul_(of_log)
        return across * (turn.sum(-1) - turn.sum(-2)).mul_(plan.kappa).unsqueeze(-1), None
    asking = torch.stack([-s.asking[..., 1], s.asking[..., 0]], -1)
    turn = torch.bmm(asking, s.u.mT).mul_(of_log)
    of_key, of_query = (turn.sum(d).mul_(sign * plan.kappa).unsqueeze(-1) for d, sign in ((-2, -1), (-1, 1)))
    return across * of_key, asking * of_query


def gradient_of_points(p: Tensor | None, of_f: Tensor, constants: Factors) -> Tensor:
    """``sum_m m sqrt|c_m| conj(z^(m - 1)) df_m`` (G, C, 2), from that of the features (G, C, F); p (G, C, M)."""
    assert p is not None
    through = torch.view_as_complex((of_f[..., 1:] * constants.slope[1:]).unflatten(-1, (-1, 2)))
    return torch.view_as_real(torch.linalg.vecdot(p[..., :-1], through[..., 1:]).add_(through[..., 0]))


def field(f: Tensor, v: Tensor) -> Tensor:
    """``sum_j f_j [v_j, 1]^T`` of each chunk, (G, F, D + 1), for key features f (G, C, F)."""
    return torch.cat([torch.bmm(f.mT, v.to(f.dtype)), f.sum(1).unsqueeze(-1)], -1)


def prefixes(
    fields: Tensor, carried: Tensor, s: Stretch, constants: Factors, future: bool = False
) -> tuple[Tensor, Tensor]:
    """From the chunks' own fields (G, F, D + 1) what each of them finds at its start (G, F, D + 1), and what stands
    after the last; ``carried`` (b, H, F, D + 1) stood before the first. In the future all of it is seen from the end.
    """
    own = constants.across @ fields.view(*s.shape[:3], -1)
    own = own.view(*own.shape[:3], *fields.shape[1:])
    first, last = (slice(1, None), 0) if future else (slice(None, -1), -1)
    past = carried.to(own.dtype)[:, :, None]
    if constants.before is None:
        return (own[:, :, first] + past).flatten(0, 2), carried + own[:, :, last]
    found = torch.addcmul(own[:, :, first], past, constants.before[..., first, :, :])
    return found.flatten(0, 2), carried * constants.before[..., last, :, :] + own[:, :, last]


def gradient_of_sums(
    grad: Tensor, out: Tensor, inverse: Tensor, rows: slice, part: slice, s: Stretch
) -> tuple[Tensor, Tensor]:
    """From the gradient of the average that of the numerator (G, C, D) and of the denominator (G, C, 1)."""
    of_out, average, inv = (t[rows, :, part] for t in (grad, out, inverse))
    g = of_out * inv
    of_den = torch.linalg.vecdot(g, average.to(g.dtype)).neg_().unsqueeze(-1)
    chunk = s.shape[3]
    if missing := -g.shape[2] % chunk:
        g, of_den = F.pad(g, (0, 0, 0, missing)), F.pad(of_den, (0, 0, 0, missing))
    return g.reshape(-1, chunk, g.shape[-1]), of_den.reshape(-1, chunk, 1)
