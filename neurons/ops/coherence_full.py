"""Coherence attention of all tokens with all, forward and backward: one mean field, O(n). No autograd here.

    L = sum_j f_j [v_j, 1]^T,     out_i = (f_i L)[:D] / (f_i L)[D]

With g the gradient of ``f_i L`` and ``R = sum_i f_i g_i^T``, the gradient of v is ``f R`` and that of f is
``g L^T + [v, 1] R^T``: the first term as a query, the second as a key. Arithmetic as in ``coherence_scan``: float32
unless the field nearly cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurons.ops.coherence_chunks import (
    Factors,
    Plan,
    Stretch,
    factors,
    field,
    gradient_of_points,
    inverse_of,
    load,
)
from neurons.ops.coherence_scan import Call, cancels, gradient_of_sums


def forward(
    z: Tensor, v: Tensor, query: Tensor | None, mask: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``coherence_scan.forward``: the average, its inverse denominators, the field (1, B, H, F, D + 1), no second
    one, and which groups of rows were done in float64."""
    call = Call(z, v, query, mask, plan)
    groups, _ = call.cut
    out, inverse = torch.empty_like(v), v.new_empty(*v.shape[:3], 1, dtype=call.near)
    fields = v.new_zeros(1, *v.shape[:2], 2 * len(plan.coefficients) - 1, v.shape[3] + 1, dtype=call.wide)
    exact = [call.near == call.wide] * len(groups)
    for index, rows in enumerate(groups):
        if not _forward_rows(call, rows, exact[index], out, inverse, fields[0, rows]):
            exact[index] = True
            _forward_rows(call, rows, True, out, inverse, fields[0, rows].zero_())
    return out, inverse, fields, fields.new_zeros(0), torch.tensor(exact)


def _forward_rows(call: Call, rows: slice, exact: bool, out: Tensor, inverse: Tensor, total: Tensor) -> bool:
    """Fills in ``rows`` of the results, of the field (b, H, F, D + 1) too; False if float32 did not do."""
    segments = call.cut[1]
    stretches = [_stretch(call, rows, part, exact) for part in segments]
    c = stretches[0][1]
    total = total[:, :, : len(c.scale)]
    for s, _ in stretches:
        assert s.f is not None
        total += field(s.f, s.v).view(total.shape)
    seen = total.to(c.slope.dtype).flatten(0, 1)
    for (s, _), part in zip(stretches, segments, strict=True):
        assert s.q is not None
        num, den = torch.bmm(s.q, seen[..., :-1]), torch.bmm(s.q, seen[..., -1:])
        weight = seen[:, :1, -1:] / c.scale[0]
        if not exact and cancels(den, weight, s, call.plan):
            return False
        inv = inverse_of(den, weight, s, call.plan)
        inverse[rows, :, part] = inv.view(*s.shape[:2], -1, 1)
        out[rows, :, part] = num.mul_(inv).view(*s.shape[:2], -1, num.shape[-1])
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
    groups, segments = call.cut
    dz, dv = torch.empty_like(z), torch.empty_like(v)
    dq = None if query is None else torch.empty_like(query)
    for rows, wide in zip(groups, exact.tolist(), strict=True):
        parts = []
        total: Tensor | None = None
        for part in segments:
            s, c = _stretch(call, rows, part, wide)
            assert s.q is not None
            g = gradient_of_sums(grad, out, inverse, rows, part, s)
            own = torch.cat([torch.bmm(s.q.mT, each.to(s.q.dtype)) for each in g], -1).to(call.wide)
            total = own if total is None else total.add_(own)
            parts.append((s, c, g))
        assert total is not None
        found = fields[0, rows].flatten(0, 1)[:, : total.shape[1]]
        for part, (s, c, g) in zip(segments, parts, strict=True):
            assert s.f is not None
            dtype = s.f.dtype
            seen, back = found.to(dtype), total.to(dtype)
            of_f = torch.bmm(g[0].to(dtype), seen[..., :-1].mT).baddbmm_(g[1].to(dtype), seen[..., -1:].mT)
            if c.signs is not None:
                of_f *= c.signs
            if dq is not None:
                dq[rows, :, part] = gradient_of_points(s.asking_p, of_f, c).view(*s.shape[:2], -1, 2)
                of_f = torch.bmm(s.v.to(dtype), back[..., :-1].mT)
            else:
                of_f.baddbmm_(s.v.to(dtype), back[..., :-1].mT)
            of_f.add_(back[:, None, :, -1])
            of_v = torch.bmm(s.f, back[..., :-1])
            of_z = gradient_of_points(s.p, of_f, c)
            if s.hidden is not None:
                of_z.view(*s.shape[:2], -1, 2).masked_fill_(s.hidden[:, None, :, None], 0)
            dz[rows, :, part] = of_z.view(*s.shape[:2], -1, 2)
            dv[rows, :, part] = of_v.view(*s.shape[:2], -1, of_v.shape[-1])
    return dz, dv, dq


def _stretch(call: Call, rows: slice, part: slice, exact: bool) -> tuple[Stretch, Factors]:
    """A segment as one chunk."""
    order = len(call.plan.coefficients) - 1 if exact else call.plan.fast_order
    constants = factors(call.plan, order, 1, 1, call.v.device, call.wide if exact else call.near)
    z, v, query, mask = call.tokens(rows, part)
    return load(z, v, query, mask, part.stop - part.start, call.near, order, constants), constants
