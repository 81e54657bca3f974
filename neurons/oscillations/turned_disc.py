"""From channel pairs to turning points of the unit disc, with a gradient in closed form.

r = (|w|^2 + gain^-2)^(-1/2),     z = r w t,     |t| = 1
dw = r (u - r^2 w <w, u>),     u = conj(t) dz,     <w, u> = Re(conj(w) u)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def turned_disc_reference(value: Tensor, points: int, gain: float, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """``turned_disc`` by complex arithmetic; differentiable twice."""
    pair = value[..., : 2 * points].unflatten(-1, (points, 2))
    return turned(pair * (pair.square().sum(-1, keepdim=True) + gain**-2).rsqrt(), cos, sin)


def turned(pair: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Pairs (B, H, T, points, 2) turned by cos + i sin (H, T), as ``points`` tensors (B, H, T, 2)."""
    product = torch.view_as_complex(pair) * torch.complex(cos, sin).unsqueeze(-1)
    return torch.view_as_real(product).unbind(-2)


def turned_disc(value: Tensor, points: int, gain: float, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """``gain w / sqrt(1 + gain^2 |w|^2)``, turned by t = cos + i sin (H, T), for each of the first ``points`` pairs of
    channels w of value (B, H, T, D): so many tensors (B, H, T, 2). Differentiable once."""
    if not torch.is_grad_enabled():
        return _forward(value, points, gain, cos, sin)
    result: tuple[Tensor, ...] = _TurnedDisc.apply(value, points, gain, cos, sin)
    return result


def _forward(value: Tensor, points: int, gain: float, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    found = []
    for x, y in _pairs(value, points):
        r = _scale(x, y, gain)
        c, s = r * cos, r.mul_(sin)
        z = value.new_empty(*x.shape, 2)
        torch.mul(x, c, out=z[..., 0]).addcmul_(y, s, value=-1)
        torch.mul(x, s, out=z[..., 1]).addcmul_(y, c)
        found.append(z)
    return tuple(found)


def _pairs(value: Tensor, points: int) -> Sequence[tuple[Tensor, Tensor]]:
    return [(value[..., 2 * k].contiguous(), value[..., 2 * k + 1].contiguous()) for k in range(points)]


def _scale(x: Tensor, y: Tensor, gain: float) -> Tensor:
    return (x * x).addcmul_(y, y).add_(gain**-2).rsqrt_()


class _TurnedDisc(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, points: int, gain: float, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(value, cos, sin)
        ctx.points, ctx.gain = points, gain
        return _forward(value, points, gain, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        value, cos, sin = ctx.saved_tensors
        dvalue = torch.zeros_like(value)
        for k, ((x, y), grad) in enumerate(zip(_pairs(value, ctx.points), grads, strict=True)):
            r = _scale(x, y, ctx.gain)
            of_x, of_y = grad.unbind(-1)
            a, b = (of_x * cos).addcmul_(of_y, sin), (of_y * cos).addcmul_(of_x, sin, value=-1)
            dot = (x * a).addcmul_(y, b).mul_(r).mul_(r)
            torch.mul(a.addcmul_(x, dot, value=-1), r, out=dvalue[..., 2 * k])
            torch.mul(b.addcmul_(y, dot, value=-1), r, out=dvalue[..., 2 * k + 1])
        return dvalue, None, None, None, None
