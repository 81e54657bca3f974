"""Causal and leaky coherence attention in O(n), forward and backward, by segments that carry mean fields. No autograd.

    sums_i = sum_j leak^|i - j| k(z_i, z_j) [v_j, 1]     (j <= i if causal),     out_i = sums_i[:D] / sums_i[D]

Inside a chunk the kernel is a matrix. All before it acts through the field ``L = sum_j f_j [v_j, 1]^T`` of its
tokens' features, decayed to the chunk's start, and, if not causal, all after it through the mirror image. The kernel is
symmetric, so the gradient of v is the same sum over g, the gradient of the sums, with past and future exchanged; that
of f is ``L g^T`` plus ``R [v, 1]^T`` with R the field of g. Kept for it are the tokens, the output, its denominators
and one field per segment; a segment is computed again, unless it is the only one: then its blocks are kept too.

Arithmetic: float32 with fields carried in float64, M for 1e-6, is enough unless the fields nearly cancel, as for a
query in antiphase to n others: n e^(-2 kappa) is left of n, with an error of 1e-7 n. So if a denominator is below
CANCEL of the weight that it sums, its batch rows are done again in float64 with all harmonics (7e-4 -> 7e-9 at
kappa = 8, n = 64k).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurons.ops.coherence_chunks import Chunks, Plan, inverse_of
from neurons.ops.coherence_segment import (
    Constants,
    Gradient,
    Segment,
    constants,
    fields,
    fields_of_gradient,
    kernel_block,
    load,
    plus,
)

CHUNK = 32
DENSE_UP_TO = 96  # tokens: so many are one chunk, and no field is made; measured where both ways cost the same
DENSE_UP_TO_BOTH_WAYS = 256  # the same where fields come from the past and from the future
UNIT = 2048  # tokens of 64 numbers, of all heads, in hand at once on a CPU: what is made of them stays in the cache
GPU_UNIT = 65536
LONGEST = 64  # chunks in a segment: the sums over those before grow with its square
CANCEL = 0.05

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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
        return n if n <= (DENSE_UP_TO if self.plan.causal else DENSE_UP_TO_BOTH_WAYS) else CHUNK

    @property
    def near(self) -> torch.dtype:
        return torch.promote_types(self.v.dtype, torch.float32)

    @property
    def wide(self) -> torch.dtype:
        return torch.float32 if self.v.device.type == "mps" else torch.float64

    @property
    def cut(self) -> tuple[list[slice], list[slice]]:
        """Groups of rows, segments of tokens."""
        batch, heads, n, width = self.v.shape
        unit = (UNIT if self.v.device.type == "cpu" else GPU_UNIT) * 64 // max(width, self.chunk)
        size = min(max(4, unit // (heads * self.chunk)), LONGEST) * self.chunk
        rows = max(1, unit // (heads * min(n, size)))
        groups = [slice(start, start + rows) for start in range(0, batch, rows)]
        return groups, [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def constants(self, part: slice, exact: bool) -> tuple[Constants, Constants]:
        """For chunks of ``part``, and for time that runs backwards."""
        order = len(self.plan.coefficients) - 1 if exact else self.plan.fast_order
        count = -(-(part.stop - part.start) // self.chunk)
        return constants(self.plan, order, self.chunk, count, self.v.device, self.wide if exact else self.near)

    def segment(self, rows: slice, part: slice, far: bool, c: Constants) -> Segment:
        order = c.slopes.shape[1] if far or not self.plan.kappa else 0
        return load(*self.tokens(rows, part), self.chunk, order, c)

    def tokens(self, rows: slice, part: slice) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """z, v, query and mask of ``rows`` and ``part``."""
        query = None if self.query is None else self.query[rows, :, part]
        mask = None if self.mask is None else self.mask[rows, part]
        return self.z[rows, :, part], self.v[rows, :, part], query, mask


def forward(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, state: Tensor | None, plan: Plan
) -> tuple[Results, tuple[Tensor, ...]]:
    """The average (B, H, N, D) and, for ``backward``: its inverse denominators (B, H, N, 1), zero where masked, the
    fields before and after every segment (S, B, H, F, D + 1), and which groups of rows were done in float64; and blocks
    of an only segment, which ``backward`` makes again if it does not get them.

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
    kept: tuple[Tensor, ...] | None = ()
    for index, rows in enumerate(groups):
        kept = _forward_rows(call, rows, segments, far, exact[index], out, inverse, past, future, state is not None)
        if kept is None:
            exact[index] = True
            kept = _forward_rows(call, rows, segments, far, True, out, inverse, past, future, state is not None)
    only = len(groups) == len(segments) == 1 and not len(future)
    return (out, inverse, past, future, torch.tensor(exact)), kept if only and kept else ()


def last_field(z: Tensor, v: Tensor, mask: Tensor | None, state: Tensor | None, plan: Plan) -> Tensor:
    """The field (B, H, F, D + 1) as the token after the last finds it, in float64: the state of a stream.

    ``sum_j leak^(N - j) f_j [v_j, 1]^T``, and what the leak has left of an earlier ``state``.
    """
    call = Call(z, v, None, mask, plan)
    for part in call.cut[1]:
        length, order = part.stop - part.start, len(plan.coefficients) - 1
        c, _ = constants(plan, order, 1, 1, v.device, call.wide)
        s = load(*call.tokens(slice(None), part), length, order, c)
        f = s.f
        if plan.leak:
            rate = torch.tensor(plan.leak, dtype=call.wide, device=v.device).log().reshape(-1, 1, 1, 1)
            f = s.scaled(f, torch.exp(torch.arange(length, 0, -1, device=v.device) * rate))
            state = None if state is None else state * torch.exp(length * rate[:, 0])
        own = torch.bmm(f, s.v).view(*v.shape[:2], -1, v.shape[3] + 1)
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
    fed: bool,
) -> tuple[Tensor, ...] | None:
    """Fills in ``rows`` of the results, ``fed`` by a past before them or not; returns the blocks of the last segment,
    or None if float32 did not do."""
    plan, size = call.plan, 2 * (len(call.plan.coefficients) if exact else call.plan.fast_order + 1) - 1
    kept: tuple[Tensor, ...] = ()
    for i in reversed(range(1, len(future))):
        c, mirror = call.constants(segments[i], exact)
        s = call.segment(rows, segments[i], far, c)
        future[i - 1, rows, :, :size] = fields(s, mirror, future[i, rows, :, :size], future=True)[1]
    for i, part in enumerate(segments):
        c, mirror = call.constants(part, exact)
        s = call.segment(rows, part, far, c)
        k, sums, weight = kernel_block(s, plan, c), None, None
        kept = k, s.v, s.u, s.f, s.w, *(s.asking or ())
        if far:
            carried = past[i, rows, :, :size] if i or fed else None
            found, carried = fields(s, c, carried)
            kept = *kept, found
            w = s.scaled(s.q[2], c.row).mT
            # who has no key of its own may hear little of a field, whose terms are rounded at the size of the largest
            sums = torch.bmm(w, found) if plan.floor else torch.bmm(w.to(call.wide), found.to(call.wide)).to(w.dtype)
            weight = _weight(s, c.row, found)
            if i + 1 < len(segments):
                past[i + 1, rows, :, :size] = carried
            if len(future):
                found, _ = fields(s, mirror, future[i, rows, :, :size], future=True)
                sums.baddbmm_(s.scaled(s.q[2], mirror.row).mT, found)
                weight = weight + _weight(s, mirror.row, found)
        sums = plus(sums, k, s.v)  # last: the terms of features are large and cancel each other
        if weight is not None and not exact and cancels(sums[..., -1:], weight, s, plan):
            return None
        inv = inverse_of(sums[..., -1:], weight, s, plan)
        inverse[rows, :, part] = s.tokens(inv)
        torch.mul(s.tokens(sums[..., :-1]), inverse[rows, :, part], out=out[rows, :, part])
    return kept


def _weight(s: Segment, decay: Tensor | None, found: Tensor) -> Tensor:
    """How many keys a field holds, after all decay: (G, C, 1), or (G, 1, 1) where there is none."""
    count = found[:, :1, -1:]
    return count if decay is None else (count.view(*s.shape[:3], 1, 1) * decay).view(len(found), -1, 1)


def cancels(den: Tensor, weight: Tensor, s: Chunks, plan: Plan) -> bool:
    """Whether a denominator (G, C, 1) of a token that counts is too little of the ``weight`` of its keys, (G, C, 1) or
    (G, 1, 1)."""
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
    kept: tuple[Tensor, ...],
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
        g_after = None
        for i in range(len(future) - 1):
            c, _ = call.constants(segments[i], wide)
            s = call.segment(rows, segments[i], far, c)
            g = _gradient_of_sums(grad, out, inverse, rows, segments[i], s)
            g_past[i + 1] = fields_of_gradient(s, c, g, g_past[i])[1]
        for i in reversed(range(len(segments))):
            part = segments[i]
            c, mirror = call.constants(part, wide)
            if kept:
                k, values, *points = kept
                shape = (*v.shape[:2], len(k) // v.shape[:2].numel(), k.shape[1])
                asking = None if query is None else (points[3], points[4], points[5])
                s = Segment(points[0], values, points[1], points[2], asking, None, shape, v.shape[2])
            else:
                s = call.segment(rows, part, far, c)
                k = kernel_block(s, plan, c)
            g = _gradient_of_sums(grad, out, inverse, rows, part, s)
            gradient = Gradient(s, c, plan)
            if far:
                found = kept[-1] if kept else fields(s, c, past[i, rows, :, :size])[0]
                g_found, g_after = fields_of_gradient(s, mirror, g, g_after, future=True)
                gradient.through_field(g, found, g_found, c)
                if len(future):
                    found, _ = fields(s, mirror, future[i, rows, :, :size], future=True)
                    g_found, _ = fields_of_gradient(s, c, g, g_past[i])
                    gradient.through_field(g, found, g_found, mirror)
            gradient.through_block(g, k)
            of_z, of_query = gradient.of_points()
            dz[rows, :, part] = s.tokens(of_z)
            if dq is not None:
                assert of_query is not None
                dq[rows, :, part] = s.tokens(of_query)
            assert gradient.of_v is not None
            dv[rows, :, part] = s.tokens(gradient.of_v)
    if mask is not None:
        dv.masked_fill_(~mask[:, None, :, None], 0)
    return dz, dv, dq


def _gradient_of_sums(grad: Tensor, out: Tensor, inverse: Tensor, rows: slice, part: slice, s: Segment) -> Tensor:
    """(G, C, D + 1), of numerators and denominators, from the gradient of the average."""
    of_out, average = grad[rows, :, part], out[rows, :, part]
    b, heads, count, chunk = s.shape
    g = s.v.new_empty(b, heads, count * chunk, s.v.shape[-1])
    if s.length < count * chunk:
        g[:, :, s.length :] = 0
    inside = g[:, :, : s.length]
    torch.mul(of_out, inverse[rows, :, part], out=inside[..., :-1])
    torch.sum(inside[..., :-1] * average, -1, out=inside[..., -1]).neg_()
    return g.view(-1, chunk, g.shape[-1])
