"""A segment of tokens cut into chunks, for coherence attention: features, kernel blocks, mean fields and what a leak
leaves of them. No autograd.

Shapes: b rows, H heads, P chunks of C tokens, G = b H P. Features of a token are a column, ``f = (1, Re z, Im z, ..,
Re z^M, Im z^M)``, F = 2 M + 1 of them: so all products of matrices are of their fast shapes, and what is done to one
harmonic is done to rows. The kernel of two tokens is ``sum_a w_a f_a f'_a`` with w = (c_0, c_1, c_1, .., c_M, c_M).
Values have a last column of ones: what is summed with it are the denominators.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from neurons.ops.coherence_chunks import Plan


class Constants(NamedTuple):
    """Of a plan, in shapes that broadcast with (b, H, P, ., .); None stands for 1.

    within (C, C): leak^|i - j| of the rows of a chunk, 0 for the future if causal.     row, rest (C,): what is left of
    a field from its chunk's start to a query, and of a key at the next chunk's start.     across (P + 1, P): what is
    left of chunk q's field at the start of chunk p > q.     before (P + 1, 1, 1): of a field from before the first.
    weights (F, 1): w.     slopes (1, M): m c_m.
    """

    within: Tensor | None
    row: Tensor | None
    rest: Tensor | None
    across: Tensor
    before: Tensor | None
    weights: Tensor
    slopes: Tensor

    def mirrored(self) -> Constants:
        """For fields of the future: time runs backwards."""
        before = None if self.before is None else self.before.flip(-3)
        return self._replace(row=self.rest, rest=self.row, across=self.across.flip(-1, -2), before=before)


@lru_cache(maxsize=64)
def constants(
    plan: Plan, order: int, chunk: int, count: int, device: torch.device, dtype: torch.dtype
) -> tuple[Constants, Constants]:
    """For ``count`` chunks of ``chunk`` tokens and ``order`` harmonics, in ``dtype``; and mirrored."""
    wide = torch.float32 if device.type == "mps" else torch.float64
    row, start = torch.arange(chunk, device=device), torch.arange(count + 1, device=device)
    distance, behind = row[:, None] - row, start[:, None] - start[:-1] - 1
    past, across = distance >= 0, (behind >= 0).to(wide)
    within = past.to(dtype) if plan.causal else None
    left, rest, before = None, None, None
    if plan.leak:
        rate = torch.tensor([math.log(each) for each in plan.leak], dtype=wide, device=device).reshape(-1, 1, 1, 1)
        within = torch.exp(distance.abs() * rate)
        within = (within * past if plan.causal else within).to(dtype)
        left, rest = (torch.exp(age * rate).to(dtype) for age in (row, chunk - row))
        across = across * torch.exp(chunk * behind.clamp_min(0) * rate[:, 0])
        before = torch.exp(chunk * start[:, None, None] * rate).to(dtype)
    weights = torch.tensor(plan.coefficients[: order + 1], dtype=wide, device=device).repeat_interleave(2)[1:, None]
    slopes = (torch.arange(1, order + 1, device=device) * weights[1::2, 0]).unsqueeze(0)
    c = Constants(within, left, rest, across.to(dtype), before, weights.to(dtype), slopes.to(dtype))
    return c, c.mirrored()


class Segment(NamedTuple):
    """u (G, 2, C): points.     v (G, C, D + 1): values and ones, all zero for tokens that do not count.     f, w
    (G, F, C): features, and those times their weights.     shape: (b, H, P, C).     length: tokens, without those that
    fill the last chunk.     hidden (b, P C): True where a token does not count; None without a mask.     asking: u, f
    and w of queries with points of their own, else None."""

    u: Tensor
    v: Tensor
    f: Tensor
    w: Tensor
    asking: tuple[Tensor, Tensor, Tensor] | None
    hidden: Tensor | None
    shape: tuple[int, int, int, int]
    length: int

    @property
    def q(self) -> tuple[Tensor, Tensor, Tensor]:
        """u, f and w of the tokens as queries."""
        return self.asking or (self.u, self.f, self.w)

    def scaled(self, t: Tensor, factor: Tensor | None) -> Tensor:
        """t (G, ., .) times a factor that broadcasts with (b, H, P, ., .)."""
        return t if factor is None else (t.view(*self.shape[:3], *t.shape[1:]) * factor).view(t.shape)

    def tokens(self, t: Tensor) -> Tensor:
        """(G, C, .) as (b, H, n, .)."""
        return t.reshape(*self.shape[:2], -1, t.shape[-1])[:, :, : self.length]


def load(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, chunk: int, order: int, c: Constants
) -> Segment:
    """z (b, H, n, 2), v (b, H, n, D), query as z or None, mask (b, n) as chunks in the type of ``c``, filled up with
    tokens that do not count."""
    b, heads, n, width = v.shape
    dtype, missing = c.weights.dtype, -n % chunk
    values = v.new_empty(b, heads, n + missing, width + 1, dtype=dtype)
    values[:, :, :n, :-1] = v
    values[..., -1].fill_(1)
    if missing:
        values[:, :, n:] = 0
    hidden = None
    if mask is not None:
        hidden = torch.nn.functional.pad(~mask, (0, missing), value=True)
        values.masked_fill_(hidden[:, None, :, None], 0)
    shape = (b, heads, (n + missing) // chunk, chunk)
    own = _points(z, hidden, shape, order, c)
    asking = None if query is None else _points(query, hidden, shape, order, c)
    return Segment(own[0], values.view(-1, chunk, width + 1), own[1], own[2], asking, hidden, shape, n)


def _points(
    z: Tensor, hidden: Tensor | None, shape: tuple[int, int, int, int], order: int, c: Constants
) -> tuple[Tensor, Tensor, Tensor]:
    """u, f and w of z (b, H, n, 2)."""
    if missing := shape[2] * shape[3] - z.shape[2]:
        z = torch.nn.functional.pad(z, (0, 0, 0, missing))
    if hidden is not None:
        z = z.masked_fill(hidden[:, None, :, None], 0)
    z = z.reshape(-1, shape[3], 2)
    if not order:
        u = z.mT.to(c.weights.dtype).contiguous()
        return u, u, u
    f = features(z, order, c.weights.dtype)
    return f[:, 1:3], f, f * c.weights


def features(z: Tensor, order: int, dtype: torch.dtype) -> Tensor:
    """(G, 2 M + 1, C) of points z (G, C, 2), from powers in double precision where the device has it."""
    point = torch.view_as_complex((z if z.device.type == "mps" else z.double()).contiguous())
    power = point.unsqueeze(-1).expand(*point.shape, order).cumprod(-1)
    if dtype == torch.float32:  # before they are transposed: that costs by the byte
        power = power.to(torch.complex64)
    f = z.new_empty(z.shape[0], 2 * order + 1, z.shape[1], dtype=dtype)
    f[:, 0].fill_(1)
    f[:, 1:].copy_(torch.view_as_real(power).flatten(-2).mT)
    return f


def kernel_block(s: Segment, plan: Plan, c: Constants) -> Tensor:
    """leak^|i - j| k(q_i, z_j) inside each chunk (G, C, C)."""
    if plan.kappa:
        # the cosine less 1 before it is multiplied keeps its precision near 0; exp2 is four times as fast as exp
        k = torch.baddbmm(s.u.new_full((1, 1, 1), -1), s.q[0].mT, s.u).mul_(plan.kappa * math.log2(math.e)).exp2_()
    else:
        k = torch.bmm(s.q[1].mT, s.w)
    if c.within is not None:
        k.view(*s.shape, -1).mul_(c.within)
    return k


def prefixes(
    own: Tensor, carried: Tensor | None, s: Segment, c: Constants, future: bool = False
) -> tuple[Tensor, Tensor]:
    """From the chunks' own fields (G, F, D + 1) what each of them finds at its start (G, F, D + 1), and what stands
    after the last, in double precision; ``carried`` (b, H, F, D + 1) stood before the first, None for nothing. In the
    future all of it is seen from the end.
    """
    sums = (c.across @ own.view(*s.shape[:3], -1)).view(*s.shape[:2], -1, *own.shape[1:])
    first, last = (slice(1, None), 0) if future else (slice(None, -1), -1)
    found, after = sums[:, :, first], sums[:, :, last]
    if carried is None:
        return found.flatten(0, 2), after if after.device.type == "mps" else after.double()
    past = carried.to(own.dtype).unsqueeze(2)
    if c.before is None:
        return (found + past).flatten(0, 2), carried + after
    found = torch.addcmul(found, past, c.before[..., first, :, :])
    return found.flatten(0, 2), carried * c.before[..., last, :, :] + after


def fields(s: Segment, c: Constants, carried: Tensor | None, future: bool = False) -> tuple[Tensor, Tensor]:
    """``sum_j f_j [v_j, 1]^T`` of all keys before each chunk, and of those before the next segment."""
    return prefixes(torch.bmm(s.scaled(s.f, c.rest), s.v), carried, s, c, future)


def fields_of_gradient(
    s: Segment, c: Constants, g: Tensor, carried: Tensor | None, future: bool = False
) -> tuple[Tensor, Tensor]:
    """Like ``fields``: the gradient of the sums (G, C, D + 1) acts on the keys that its queries read."""
    return prefixes(torch.bmm(s.scaled(s.q[1], c.rest), g), carried, s, c, future)


def plus(sum_: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """``sum_ + a b``, in place, for batches of matrices; None for 0."""
    return torch.bmm(a, b) if sum_ is None else sum_.baddbmm_(a, b)


class Gradient:
    """Collects what reaches values (G, C, D), and points of tokens as keys and as queries, which is one sum where no
    query has points of its own: gradients of their features (G, F, C), but for the weights, and, on the circle, of
    their phases (G, C). Blocks come last: large terms that cancel each other are then summed among themselves."""

    def __init__(self, s: Segment, c: Constants, plan: Plan) -> None:
        self.s, self.c, self.kappa = s, c, plan.kappa
        self.of_v: Tensor | None = None
        self.of_key: Tensor | None = None
        self.of_query: Tensor | None = None
        self.turns: tuple[Tensor, Tensor] | None = None
        self.across: Tensor | None = None  # iu of queries

    def through_field(self, g: Tensor, found: Tensor, g_found: Tensor, c: Constants) -> None:
        """From that of the sums (G, C, D + 1), through a field that queries ``found``, and through the field of g,
        ``g_found``, that keys find."""
        s = self.s
        self.of_v = plus(self.of_v, s.scaled(s.w, c.rest).mT, g_found[..., :-1])
        if s.asking is None:
            self.of_key = self._plus(self.of_key, found, g, c.row)
        else:
            self.of_query = self._plus(self.of_query, found, g, c.row)
        self.of_key = self._plus(self.of_key, g_found, s.v, c.rest)

    def through_block(self, g: Tensor, k: Tensor) -> None:
        """From that of the sums, through a kernel block (G, C, C).

        On the circle ``d log k_ij / d phi_i = kappa sin(phi_j - phi_i)``; by sines and not by ``sum_j u_j d log k_ij``,
        whose radial part is larger by far and leaves the rest with an error of 1e-5.
        """
        s = self.s
        self.of_v = plus(self.of_v, k.mT, g[..., :-1])
        of_k = torch.bmm(g, s.v.mT)
        if self.kappa:
            self.across = _turned(s.q[0])
            turn = torch.bmm(self.across.mT, s.u).mul_(of_k).mul_(k)
            self.turns = turn.sum(-2), turn.sum(-1)
            return
        if self.c.within is not None:
            of_k.view(*s.shape, -1).mul_(self.c.within)
        if s.asking is None:
            self.of_key = plus(self.of_key, s.f, of_k + of_k.mT)
        else:
            self.of_key, self.of_query = plus(self.of_key, s.q[1], of_k), plus(self.of_query, s.f, of_k.mT)

    def _plus(self, sum_: Tensor | None, a: Tensor, b: Tensor, decay: Tensor | None) -> Tensor:
        if decay is None:
            return plus(sum_, a, b.mT)
        term = self.s.scaled(torch.bmm(a, b.mT), decay)
        return term if sum_ is None else sum_.add_(term)

    def of_points(self) -> tuple[Tensor, Tensor | None]:
        """(G, C, 2), of tokens as keys and as queries; the first is all where no query has points of its own."""
        s = self.s
        if self.turns is None or self.across is None:
            of_query = None if s.asking is None else _of_points(s.asking[1], self.of_query, self.c)
            return _of_points(s.f, self.of_key, self.c), of_query
        as_key, as_query = self.turns
        if s.asking is None:
            turn = as_query.sub_(as_key).mul_(self.kappa)
            return _along(self.across, _plus_turn(turn, s.f, self.of_key, self.c)), None
        as_key = _plus_turn(as_key.mul_(-self.kappa), s.f, self.of_key, self.c)
        as_query = _plus_turn(as_query.mul_(self.kappa), s.asking[1], self.of_query, self.c)
        return _along(_turned(s.u), as_key), _along(self.across, as_query)


def _turned(u: Tensor) -> Tensor:
    """iu for points u (G, 2, C)."""
    return torch.stack([-u[:, 1], u[:, 0]], 1)


def _along(across: Tensor, turn: Tensor) -> Tensor:
    """The gradient of points (G, C, 2) from that of their phases (G, C)."""
    return (across * turn.unsqueeze(1)).mT


def _plus_turn(turn: Tensor, f: Tensor, of_f: Tensor | None, c: Constants) -> Tensor:
    """Adds to the gradient of phases (G, C) what ``Gradient`` has collected for their features f (G, F, C)."""
    if of_f is None:
        return turn
    each = (f[:, 1::2] * of_f[:, 2::2]).addcmul_(f[:, 2::2], of_f[:, 1::2], value=-1)
    return turn.unsqueeze(1).baddbmm_(c.slopes.expand(len(f), -1, -1), each).squeeze(1)


def _of_points(f: Tensor, of_f: Tensor | None, c: Constants) -> Tensor:
    """``sum_m m c_m conj(z^(m - 1)) df_m`` (G, C, 2), from what it has collected for features of points of the disc."""
    assert of_f is not None
    re, im, of_re, of_im = f[:, 1:-2:2], f[:, 2:-2:2], of_f[:, 3::2], of_f[:, 4::2]
    slopes = c.slopes[:, 1:].expand(len(f), -1, -1)
    x = torch.bmm(slopes, (re * of_re).addcmul_(im, of_im))
    y = torch.bmm(slopes, (re * of_im).addcmul_(im, of_re, value=-1))
    return torch.cat([x, y], 1).add_(of_f[:, 1:3] * c.slopes[:, :1]).mT
