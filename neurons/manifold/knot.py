"""Linking of curves in space: the Gauss integral, exact for polygons."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neurons.errors import UsageError


def linking_number(curve_a: Any, curve_b: Any) -> Tensor:
    """Linking number of two closed polygons (n, 3) and (m, 3), vertices in order, the last joined to the first.

        Lk = 1 / (4 pi) sum over pairs of segments of  int int r . (dr1 x dr2) / |r|^3

    An integer (to rounding) when the curves do not meet: +-1 for a Hopf link, 0 for curves that can be pulled apart;
    its sign turns with the direction of either curve. A 0-d tensor, differentiable (almost everywhere its gradient is
    0). Raises UsageError unless both are (n, 3) with n >= 3. Source: Gauss 1833; Klenin & Langowski 2000.
    """
    curves = [torch.as_tensor(curve) for curve in (curve_a, curve_b)]
    for curve in curves:
        if curve.dim() != 2 or curve.shape[0] < 3 or curve.shape[1] != 3:
            raise UsageError(f"a closed curve is (n, 3) with n of 3 or more, not {tuple(curve.shape)}")
    kind = torch.promote_types(torch.promote_types(*(curve.dtype for curve in curves)), torch.float32)
    closed = [torch.cat([curve, curve[:1]]).to(kind) for curve in curves]
    return gauss_integral(*closed)


def gauss_integral(arc_a: Tensor, arc_b: Tensor, *, thickness: float = 0.0) -> Tensor:
    """Gauss integral (...) of open polygons (..., n, 3) and (..., m, 3), the sum over their n - 1 and m - 1 segments.

    A pair of segments contributes the signed area, over 4 pi, of the spherical quadrilateral that their difference
    r = a - b sweeps: two spherical triangles by van Oosterom & Strackee 1983, exact whatever the length of the segments
    (Banchoff 1976; Klenin & Langowski 2000). Segments that share a point, lie in a plane or have no length contribute
    0 with finite gradients. Not an integer for open arcs: it says how far one winds around the other, in turns.
    ``thickness`` replaces |r| by sqrt(|r|^2 + thickness^2), so that gradients stay below its inverse where arcs pass.
    """
    # Points and coordinates first, so that every operation runs along the long axes of the batch.
    a, b = (arc.movedim((-2, -1), (0, 1)).contiguous() for arc in (arc_a, arc_b))
    x, y, z = (b[None, :, axis] - a[:, None, axis] for axis in range(3))
    size = x.square() + y.square() + z.square()
    # A vector without length is 0 and constant, not NaN: where corners meet, the integral jumps and has no gradient.
    point = size <= torch.finfo(size.dtype).eps ** 2 * size.detach().amax((0, 1))
    inverse = torch.rsqrt(torch.where(point, 1.0, size + thickness**2)).masked_fill(point, 0.0)
    unit = torch.stack([x * inverse, y * inverse, z * inverse])
    p, q = unit[:, :-1, :-1], unit[:, :-1, 1:]  # from the first end of a's segment to both ends of b's
    s, r = unit[:, 1:, :-1], unit[:, 1:, 1:]
    pr = (p * r).sum(0)
    cross = torch.stack([p[1] * r[2] - p[2] * r[1], p[2] * r[0] - p[0] * r[2], p[0] * r[1] - p[1] * r[0]])
    first = _half_area((cross * q).sum(0), pr, (p * q).sum(0), (q * r).sum(0))
    second = _half_area(-(cross * s).sum(0), pr, (p * s).sum(0), (s * r).sum(0))
    return (first + second).sum((0, 1)) / (2 * math.pi)


def _half_area(triple: Tensor, *cosines: Tensor) -> Tensor:
    """Half of the signed area of a spherical triangle, ``tan = triple / (1 + sum of its cosines)``."""
    flat = triple.abs() < 8 * torch.finfo(triple.dtype).eps  # in a plane, to rounding: no area, not half a sphere
    below = 1 + cosines[0] + cosines[1] + cosines[2]
    return torch.atan2(triple.masked_fill(flat, 0.0), torch.where(flat, 1.0, below))
