"""Coherence attention of all tokens with all, forward and backward: one mean field, O(n). No autograd here.

With p the powers z^1 .. z^M of a token as 2 M real numbers, and g the gradient of the sums,

    L = sum_j (1, p_j) [v_j, 1]^T,     sums_i = c_0 L_0 + (q_i c) L,     out_i = sums_i[:D] / sums_i[D]
    R = sum_i (1, q_i) g_i^T,          dv_j = c_0 R_0 + (p_j c) R,       dq_i = c g_i L^T,     dp_j = c [v_j, 1] R^T

where the coefficients c act on a field, once, and not on the features of every token. Arithmetic as in
``coherence_scan``: float32 unless the field nearly cancels. Powers are made where they are read, in pieces that stay in
the cache: to keep them costs more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from neurons.ops.coherence_chunks import Plan, Stretch, inverse_of
from neurons.ops.coherence_scan import Call, cancels

JOINED = 4  # so many groups or segments of the scan are one here, where no kernel block fills the cache

T = TypeVar("T")


def forward(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``coherence_scan.forward``: the average, its inverse denominators, the field (1, B, H, F, D + 1), no second
    one, and which groups of rows were done in float64."""
    call = Call(z, v, query, mask, plan)
    groups, segments = _cut(call)
    out, inverse = torch.empty_like(v), v.new_empty(*v.shape[:3], 1, dtype=call.near)
    fields = v.new_zeros(1, *v.shape[:2], 2 * len(plan.coefficients) - 1, v.shape[3] + 1, dtype=call.wide)
    exact = [call.near == call.wide] * len(groups)
    for index, rows in enumerate(groups):
        if not _forward_rows(call, rows, segments, exact[index], out, inverse, fields[0, rows]):
            exact[index] = True
            _forward_rows(call, rows, segments, True, out, inverse, fields[0, rows])
    flags = torch.tensor(exact).repeat_interleave(_width(call))
    return out, inverse, fields, fields.new_zeros(0), flags[: len(call.cut[0])]


def _forward_rows(
    call: Call, rows: slice, segments: list[slice], exact: bool, out: Tensor, inverse: Tensor, kept: Tensor
) -> bool:
    """Fills in ``rows`` of the results, of the field (b, H, F, D + 1) too; False if float32 did not do."""
    order = _order(call, exact)
    keys, queries = _loaded(call, rows, segments, exact)
    total = torch.zeros_like(kept[:, :, : 2 * order + 1]).flatten(0, 1)
    for part in segments:
        s = keys(part)
        assert s.f is not None
        total[:, 0, :-1] += s.v.sum(1)
        total[:, 0, -1] += _count(s)
        total[:, 1:, :-1] += torch.bmm(s.f.mT, s.v)
        total[:, 1:, -1] += s.f.sum(1)
    kept[:, :, : 2 * order + 1] = total.view(*kept.shape[:2], -1, kept.shape[-1])
    weights, _ = _weights(call.plan, order, total.dtype, total.device)
    seen, weight = (total * weights).to(_dtype(call, exact)), total[:, :1, -1:]
    for part in segments:
        s = queries(part)
        assert s.q is not None
        sums = torch.baddbmm(seen[:, :1], s.q, seen[:, 1:])
        num, den = sums[..., :-1], sums[..., -1:]
        if not exact and cancels(den, weight, s, call.plan):
            return False
        inv = inverse_of(den, weight, s, call.plan).view(*s.shape[:2], -1, 1)
        inverse[rows, :, part] = inv
        torch.mul(num.view(*s.shape[:2], -1, num.shape[-1]), inv, out=out[rows, :, part])
    return True


def backward(
    grad: Tensor,
    z: Tensor,
    v: Tensor,
    query: Tensor | None,
    mask: Tensor | None,
    out: Tensor,
    inverse: Tensor,
    fields: Tensor,
    exact: Tensor,
    plan: Plan,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of z, v and query from ``grad`` (B, H, N, D), that of the average, and the results of ``forward``."""
    call = Call(z, v, query, mask, plan)
    groups, segments = _cut(call)
    dz, dv = torch.empty_like(z), torch.empty_like(v)
    dq = None if query is None else torch.empty_like(query)
    for rows, wide in zip(groups, exact[:: _width(call)].tolist(), strict=True):
        order, dtype = _order(call, wide), _dtype(call, wide)
        keys, queries = _loaded(call, rows, segments, wide)
        seed = _kept(lambda part, rows=rows, dtype=dtype: _of_sums(grad, out, inverse, rows, part, dtype), segments)  # type: ignore[misc]
        found = fields[0, rows].flatten(0, 1)[:, : 2 * order + 1]
        total = torch.zeros_like(found)
        for part in segments:
            s, g = queries(part), seed(part)
            assert s.q is not None
            total[:, 0] += g.sum(1)
            total[:, 1:] += torch.bmm(s.q.mT, g)
        weights, slopes = _weights(plan, order, total.dtype, total.device)
        back = (total * weights).to(dtype)
        of_query, of_key = ((field * slopes).to(dtype)[:, 1:].mT for field in (found, total))
        for part in segments:
            s, g = keys(part), seed(part)
            assert s.f is not None
            shape = (*s.shape[:2], -1)
            of_v = torch.baddbmm(back[:, :1, :-1], s.f, back[:, 1:, :-1]).view(*shape, v.shape[3])
            of_p = torch.baddbmm(of_key[:, -1:], s.v, of_key[:, :-1])
            if dq is None:
                of_p.baddbmm_(g, of_query)
            of_z = _of_points(s.p, of_p).view(*shape, 2)
            if s.hidden is not None:
                of_v.masked_fill_(s.hidden[:, None, :, None], 0)
                of_z.masked_fill_(s.hidden[:, None, :, None], 0)
            dv[rows, :, part], dz[rows, :, part] = of_v, of_z
            if dq is not None:
                dq[rows, :, part] = _of_points(queries(part).asking_p, torch.bmm(g, of_query)).view(*shape, 2)
    return dz, dv, dq


def _width(call: Call) -> int:
    """Groups of rows of the scan that are one here."""
    return JOINED if len(call.cut[1]) == 1 else 1


def _cut(call: Call) -> tuple[list[slice], list[slice]]:
    """Groups of rows, segments of tokens."""
    groups, segments = call.cut
    width = _width(call)
    return _joined(groups, width), _joined(segments, 1 if width > 1 else JOINED)


def _joined(parts: list[slice], width: int) -> list[slice]:
    return [slice(parts[i].start, parts[i : i + width][-1].stop) for i in range(0, len(parts), width)]


def _order(call: Call, exact: bool) -> int:
    return len(call.plan.coefficients) - 1 if exact else call.plan.fast_order


def _dtype(call: Call, exact: bool) -> torch.dtype:
    return call.wide if exact else call.near


@lru_cache(maxsize=64)
def _weights(plan: Plan, order: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """c_0, c_1, c_1, .., c_M, c_M (F, 1), and m c_m of the same, since d z^m = m z^(m - 1) dz."""
    with torch.inference_mode(False):  # what is cached serves training too
        c = torch.tensor(plan.coefficients[: order + 1], dtype=dtype, device=device)
        both = torch.stack([c, c * torch.arange(order + 1, device=device)])
        weights, slopes = both.repeat_interleave(2, 1)[:, 1:, None]
        return weights, slopes


def _kept(make: Callable[[slice], T], segments: list[slice]) -> Callable[[slice], T]:
    """``make``; if there is but one segment, it is called once."""
    if len(segments) > 1:
        return make
    made: list[T] = []

    def once(part: slice) -> T:
        if not made:
            made.append(make(part))
        return made[0]

    return once


def _loaded(
    call: Call, rows: slice, segments: list[slice], exact: bool
) -> tuple[Callable[[slice], Stretch], Callable[[slice], Stretch]]:
    """A segment's keys (f and p of a Stretch), and its queries (q and asking_p), as one chunk; the other fields of
    either are empty. The features f and q (G, C, 2 M) are the powers as real numbers."""
    order, dtype = _order(call, exact), _dtype(call, exact)

    def load(part: slice, asking: bool) -> Stretch:
        z, v, query, mask = call.tokens(rows, part)
        hidden = None if mask is None else ~mask
        if asking and query is not None:
            z = query
        if hidden is not None:
            z = z.masked_fill(hidden[:, None, :, None], 0)
            v = v if asking else v.masked_fill(hidden[:, None, :, None], 0)
        b, heads, n, _ = z.shape
        p = powers(z.reshape(-1, n, 2), order, dtype)
        f = torch.view_as_real(p).flatten(-2)
        v = v.reshape(-1, n, v.shape[-1]).to(dtype)
        return Stretch(z, v, p, f, f, hidden, (b, heads, 1, n), None, p)

    keys = _kept(lambda part: load(part, False), segments)
    return keys, keys if call.query is None else _kept(lambda part: load(part, True), segments)


def powers(z: Tensor, order: int, dtype: torch.dtype) -> Tensor:
    """z^1 .. z^M (..., M), complex of two ``dtype``, of points z (..., 2).

    Rounded once: a processor's running products are of double precision, elsewhere we ask for it.
    """
    if z.device.type not in ("cpu", "mps") or dtype == torch.float64:
        z = z.double()
    w = torch.view_as_complex(z)
    made = w[..., None].expand(*w.shape, order).cumprod(-1)
    return made.to(torch.complex128 if dtype == torch.float64 else torch.complex64)


def _count(s: Stretch) -> Tensor | int:
    """Tokens that count, (G,)."""
    if s.hidden is None:
        return s.shape[3]
    return (~s.hidden).sum(-1).repeat_interleave(s.shape[1])


def _of_sums(grad: Tensor, out: Tensor, inverse: Tensor, rows: slice, part: slice, dtype: torch.dtype) -> Tensor:
    """The gradient of numerators and denominators (G, C, D + 1) from that of the average."""
    average = out[rows, :, part]
    b, heads, n, width = average.shape
    g = inverse.new_empty(b, heads, n, width + 1)
    torch.mul(grad[rows, :, part], inverse[rows, :, part], out=g[..., :-1])
    torch.sum(g[..., :-1] * average, -1, out=g[..., -1]).neg_()
    return g.flatten(0, 1).to(dtype)


def _of_points(p: Tensor | None, of_p: Tensor) -> Tensor:
    """``sum_m conj(z^(m - 1)) d_m`` (G, C, 2) for d (G, C, 2 M), m times the gradient of z^m, and p (G, C, M)."""
    assert p is not None
    d = torch.view_as_complex(of_p.unflatten(-1, (-1, 2)))
    return torch.view_as_real(torch.linalg.vecdot(p[..., :-1], d[..., 1:]).add_(d[..., 0]))
