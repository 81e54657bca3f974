"""Causal and leaky coherence attention in O(n), forward and backward, by segments that carry mean fields. No autograd.

    sums_i = sum_j leak^|i - j| k(z_i, z_j) [v_j, 1]     (j <= i if causal),     out_i = sums_i[:D] / sums_i[D]

Inside a chunk the kernel is a matrix. All before it acts through the field ``L = sum_j f_j [v_j, 1]^T`` of its tokens'
features, decayed to the chunk's start, and, if not causal, all after it through the mirror image. The kernel is
symmetric, so the gradient of v is the same sum over g, the gradient of the sums, with past and future exchanged; that
of f is ``g L^T`` plus ``[v, 1] R^T`` with R the field of g. Kept for it are the tokens, the output, its denominators
and one field per segment; a segment is computed again.

Arithmetic: float32 with fields carried in float64, M for 1e-6, is enough unless the fields nearly cancel, as for a
query in antiphase to n others: n e^(-2 kappa) is left of n, with an error of 1e-7 n. So if a denominator is below
CANCEL of the weight that it sums, its batch rows are done again in float64 with all harmonics (7e-4 -> 7e-9 at
kappa = 8, n = 64k).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.ops.coherence_chunks import (
    Factors,
    Plan,
    Stretch,
    factors,
    field,
    gradient_along_circle,
    gradient_of_points,
    inverse_of,
    kernel_block,
    load,
    prefixes,
)

CHUNK = 64
DENSE_UP_TO = 256  # tokens: so many are one chunk, and no field is made; measured where both ways cost the same
DENSE_UP_TO_BY_FEATURES = 160  # the same where the block of a chunk is a product of features, which costs more
UNIT = 2048  # tokens of all heads in hand at once on a CPU: what is made of them stays in the cache
GPU_UNIT = 65536
CANCEL = 0.05


@dataclass(frozen=True)
class Call:
    """z (B, H, N, 2), v (B, H, N, D), query as z or None, mask (B, N), and how they are cut into groups of rows and
    segments of tokens."""

    z: Tensor
    v: Tensor
    query: Tensor | None
    mask: Tensor | None
    plan: Plan

    @property
    def chunk(self) -> int:
        n = self.v.shape[2]
        return n if n <= (DENSE_UP_TO if self.plan.kappa else DENSE_UP_TO_BY_FEATURES) else CHUNK

    @property
    def near(self) -> torch.dtype:
        return torch.promote_types(self.v.dtype, torch.float32)

    @property
    def wide(self) -> torch.dtype:
        return torch.float32 if self.v.device.type == "mps" else torch.float64

    @property
    def cut(self) -> tuple[list[slice], list[slice]]:
        """Groups of rows, segments of tokens."""
        batch, heads, n, _ = self.v.shape
        unit = UNIT if self.v.device.type == "cpu" else GPU_UNIT
        size = max(4, unit // (heads * self.chunk)) * self.chunk
        rows = max(1, unit // (heads * min(n, size)))
        groups = [slice(start, start + rows) for start in range(0, batch, rows)]
        return groups, [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def stretch(self, rows: slice, part: slice, exact: bool, far: bool) -> tuple[Stretch, Factors]:
        order = len(self.plan.coefficients) - 1 if exact else self.plan.fast_order
        count = -(-(part.stop - part.start) // self.chunk)
        dtype = self.wide if exact else self.near
        constants = factors(self.plan, order, self.chunk, count, self.v.device, dtype)
        featured = order if far or not self.plan.kappa else 0
        return load(*self.tokens(rows, part), self.chunk, self.near, featured, constants), constants

    def tokens(self, rows: slice, part: slice) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """z, v, query and mask of ``rows`` and ``part``."""
        query = None if self.query is None else self.query[rows, :, part]
        mask = None if self.mask is None else self.mask[rows, part]
        return self.z[rows, :, part], self.v[rows, :, part], query, mask


def forward(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, state: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The average (B, H, N, D) and, for ``backward``: its inverse denominators (B, H, N, 1), zero where masked, the
    fields before and after every segment (S, B, H, F, D + 1), and which groups of rows were done in float64.

    ``state`` (B, H, F, D + 1) is the field of earlier tokens, in float64 (causal plans only).
    """
    call = Call(z, v, query, mask, plan)
    groups, segments = call.cut
    far = v.shape[2] > call.chunk or state is not None
    out, inverse = torch.empty_like(v), v.new_empty(*v.shape[:3], 1, dtype=call.near)
    size = (*v.shape[:2], 2 * len(plan.coefficients) - 1, v.shape[3] + 1)
    past = v.new_zeros(len(segments) if far else 0, *size, dtype=call.wide)
    future = torch.zeros_like(past if not plan.causal else past[:0])
    if state is not None:
        past[0] = state
    exact = [call.near == call.wide or not (plan.floor or plan.kappa)] * len(groups)
    for index, rows in enumerate(groups):
        if not _forward_rows(call, rows, segments, far, exact[index], out, inverse, past, future):
            exact[index] = True
            _forward_rows(call, rows, segments, far, True, out, inverse, past, future)
    return out, inverse, past, future, torch.tensor(exact)


def last_field(z: Tensor, v: Tensor, mask: Tensor | None, state: Tensor | None, plan: Plan) -> Tensor:
    """The field (B, H, F, D + 1) as the token after the last finds it, in float64: the state of a stream.

    ``sum_j leak^(N - j) f_j [v_j, 1]^T``, and what the leak has left of an earlier ``state``.
    """
    call = Call(z, v, None, mask, plan)
    for part in call.cut[1]:
        length = part.stop - part.start
        c = factors(plan, len(plan.coefficients) - 1, 1, 1, v.device, call.wide)
        s = load(*call.tokens(slice(None), part), length, call.near, len(plan.coefficients) - 1, c)
        assert s.f is not None
        f = s.f
        if plan.leak:
            rate = torch.tensor(plan.leak, dtype=call.wide, device=v.device).log().reshape(-1, 1, 1, 1)
            age = torch.arange(length, 0, -1, device=v.device).unsqueeze(-1)
            f = s.scaled(f, torch.exp(age * rate))
            state = None if state is None else state * torch.exp(length * rate[:, 0])
        own = field(f, s.v).view(*v.shape[:2], -1, v.shape[3] + 1)
        state = own if state is None else state + own
    assert state is not None
    return state


def _forward_rows(
    call: Call,
    rows: slice,
    segments: list[slice],
    far: bool,
    exact: bool,
    out: Tensor,
    inverse: Tensor,
    past: Tensor,
    future: Tensor,
) -> bool:
    """Fills in ``rows`` of the results; False if float32 did not do."""
    plan, size = call.plan, 2 * (len(call.plan.coefficients) if exact else call.plan.fast_order + 1) - 1
    for i in reversed(range(1, len(future))):
        s, c = call.stretch(rows, segments[i], exact, far)
        after = _fields(s, c.mirrored(), future[i, rows, :, :size], future=True)[1]
        future[i - 1, rows, :, :size] = after
    for i, part in enumerate(segments):
        s, c = call.stretch(rows, part, exact, far)
        k = kernel_block(s, plan, c)
        num, den, total = torch.bmm(k, s.v), k.sum(-1, keepdim=True), None
        if far:
            assert s.f is not None
            before, carried = _fields(s, c, past[i, rows, :, :size])
            num, den = _add_far(s, c.row, before, num, den)
            total = before[:, :1, -1:] / c.scale[0]
            if i + 1 < len(segments):
                past[i + 1, rows, :, :size] = carried
            if len(future):
                mirror = c.mirrored()
                after, _ = _fields(s, mirror, future[i, rows, :, :size], future=True)
                num, den = _add_far(s, mirror.row, after, num, den)
                total = total + after[:, :1, -1:] / c.scale[0]
            if not exact and cancels(den, total, s, plan):
                return False
        inv, length = inverse_of(den, total, s, plan), part.stop - part.start
        inverse[rows, :, part] = _tokens(inv, s, length)
        out[rows, :, part] = _tokens(num.mul_(inv), s, length)
    return True


def cancels(den: Tensor, weight: Tensor, s: Stretch, plan: Plan) -> bool:
    """Whether a denominator (G, C, 1) of a token that counts is too little of the ``weight`` (G, 1, 1) of its keys."""
    low = den.clamp_min(plan.floor) < weight * CANCEL
    if s.hidden is not None:
        low.view(*s.shape).masked_fill_(s.hidden.view(s.shape[0], 1, *s.shape[2:]), False)
    return bool(low.any())


def backward(
    grad: Tensor,
    z: Tensor,
    v: Tensor,
    query: Tensor | None,
    mask: Tensor | None,
    out: Tensor,
    inverse: Tensor,
    past: Tensor,
    future: Tensor,
    exact: Tensor,
    plan: Plan,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of z, v and query from ``grad`` (B, H, N, D), that of the average, and the results of ``forward``."""
    call = Call(z, v, query, mask, plan)
    groups, segments = call.cut
    dz, dv = torch.empty_like(z), torch.empty_like(v)
    dq = None if query is None else torch.empty_like(query)
    far, flags = len(past) > 0, exact.tolist()

    for rows, wide in zip(groups, flags, strict=True):
        size = 2 * (len(plan.coefficients) if wide else plan.fast_order + 1) - 1
        # the fields of g: before every segment, if it has a future to act on, and after the one in hand
        g_past = torch.zeros_like(future[:, rows, :, :size])
        g_after = torch.zeros_like(past[0, rows, :, :size]) if far else None
        for i in range(len(future) - 1):
            s, c = call.stretch(rows, segments[i], wide, far)
            g = gradient_of_sums(grad, out, inverse, rows, segments[i], s)
            g_past[i + 1] = _fields_of_g(s, c, *g, g_past[i])[1]
        for i in reversed(range(len(segments))):
            part = segments[i]
            s, c = call.stretch(rows, part, wide, far)
            g = gradient_of_sums(grad, out, inverse, rows, part, s)
            k = kernel_block(s, plan, c)
            of_v = torch.bmm(k.mT, g[0])
            of_k = torch.bmm(g[0], s.v.mT).add_(g[1])
            of_z = of_asking = None
            of_f: Parts = (None, None)
            if plan.kappa:
                of_z, of_asking = gradient_along_circle(s, of_k.mul_(k), plan)
            else:
                of_f = _gradient_of_block(s, c, of_k)
            if far:
                assert s.f is not None
                assert g_after is not None
                g = g[0].to(s.f.dtype), g[1].to(s.f.dtype)
                mirror = c.mirrored()
                before, _ = _fields(s, c, past[i, rows, :, :size])
                g_found, g_after = _fields_of_g(s, mirror, *g, g_after, future=True)
                of_f, of_v = _gradient_of_far(s, c, g, before, g_found, of_f, of_v)
                if len(future):
                    after, _ = _fields(s, mirror, future[i, rows, :, :size], future=True)
                    g_found, _ = _fields_of_g(s, c, *g, g_past[i])
                    of_f, of_v = _gradient_of_far(s, mirror, g, after, g_found, of_f, of_v)
            of_z = _through_powers(s.p, of_f[0], of_z, c)
            if dq is not None:
                of_asking = _through_powers(s.asking_p, of_f[1], of_asking, c)
                dq[rows, :, part] = _tokens(of_asking, s, part.stop - part.start)
            of_z, of_v = (_tokens(t, s, part.stop - part.start) for t in (of_z, of_v))
            if mask is not None:
                of_z, of_v = (t.masked_fill(~mask[rows, None, part, None], 0) for t in (of_z, of_v))
            dz[rows, :, part], dv[rows, :, part] = of_z, of_v
    return dz, dv, dq


Parts = tuple[Tensor | None, Tensor | None]  # as keys and as queries; the first is all where the points are the same


def _through_powers(p: Tensor | None, of_f: Tensor | None, near: Tensor | None, c: Factors) -> Tensor:
    """The gradient of points from that of their features, besides what came ``near``, past them."""
    if of_f is None:
        assert near is not None
        return near
    back = gradient_of_points(p, of_f, c)
    return back if near is None else back.add_(near)


def _tokens(t: Tensor, s: Stretch, length: int) -> Tensor:
    """(G, C, .) as (b, H, n, .)."""
    return t.view(*s.shape[:2], -1, t.shape[-1])[:, :, :length]


def _fields(s: Stretch, c: Factors, carried: Tensor, future: bool = False) -> tuple[Tensor, Tensor]:
    assert s.f is not None
    return prefixes(field(s.scaled(s.f, c.rest), s.v), carried, s, c, future)


def _fields_of_g(
    s: Stretch, c: Factors, of_num: Tensor, of_den: Tensor, carried: Tensor, future: bool = False
) -> tuple[Tensor, Tensor]:
    """Like _fields: the gradient of the sums acts on the keys that its queries read."""
    assert s.q is not None
    q = s.scaled(s.q, c.rest).mT
    own = torch.cat([torch.bmm(q, of_num.to(q.dtype)), torch.bmm(q, of_den.to(q.dtype))], -1)
    return prefixes(own, carried, s, c, future)


def _add_far(s: Stretch, decay: Tensor | None, fields: Tensor, num: Tensor, den: Tensor) -> tuple[Tensor, Tensor]:
    assert s.q is not None
    f = s.scaled(s.q, decay)
    if f.dtype == num.dtype:
        return num.baddbmm_(f, fields[..., :-1]), den.baddbmm_(f, fields[..., -1:])
    far = torch.bmm(f, fields).to(num.dtype)  # converted first: an in-place sum of two types is ten times slower
    return num.add_(far[..., :-1]), den.add_(far[..., -1:])


def _gradient_of_block(s: Stretch, c: Factors, of_k: Tensor) -> Parts:
    """Of the features, from that of a kernel block that is their product."""
    assert s.f is not None
    assert s.q is not None
    if c.within is not None:
        of_k.view(*s.shape, -1).mul_(c.within.to(of_k.dtype))
    if s.asking is None:
        return torch.bmm(of_k + of_k.mT, s.q.to(of_k.dtype)).to(s.q.dtype), None
    as_key, as_query = torch.bmm(of_k.mT, s.q.to(of_k.dtype)), torch.bmm(of_k, s.f.to(of_k.dtype))
    if c.signs is not None:
        as_query *= c.signs.to(as_query.dtype)
    return as_key.to(s.q.dtype), as_query.to(s.q.dtype)


def _gradient_of_far(
    s: Stretch,
    c: Factors,
    g: tuple[Tensor, Tensor],
    found: Tensor,
    g_found: Tensor,
    of_f: Parts,
    of_v: Tensor,
) -> tuple[Parts, Tensor]:
    """Adds to the gradients of features and values what passes through a field that queries ``found``, and through the
    field of g, ``g_found``, that keys find."""
    assert s.f is not None
    as_query = torch.bmm(g[0], found[..., :-1].mT).baddbmm_(g[1], found[..., -1:].mT)
    as_query = s.scaled(as_query, c.row)
    if c.signs is not None:
        as_query *= c.signs
    as_key = torch.bmm(s.v.to(as_query.dtype), g_found[..., :-1].mT).add_(g_found[:, None, :, -1])
    as_key = s.scaled(as_key, c.rest)
    of_v += s.scaled(torch.bmm(s.f, g_found[..., :-1]), c.rest).to(of_v.dtype)
    if s.asking is None:
        return (_plus(of_f[0], as_query.add_(as_key)), None), of_v
    return (_plus(of_f[0], as_key), _plus(of_f[1], as_query)), of_v


def _plus(sum_: Tensor | None, term: Tensor) -> Tensor:
    return term if sum_ is None else sum_.add_(term)


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
