"""All states of a chain of two-dimensional affine maps, ``s_t = A_t s_{t-1} + b_t``, O(n) work, O(log n) deep."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Matrix(NamedTuple):
    """2 x 2 matrices, entry by entry, each (..., T, C)."""

    vv: Tensor
    vw: Tensor
    wv: Tensor
    ww: Tensor

    def times(self, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return self.vv * v + self.vw * w, self.wv * v + self.ww * w

    def after(self, first: Matrix) -> Matrix:
        """The product self @ first."""
        left, right = self.times(first.vv, first.wv), self.times(first.vw, first.ww)
        return Matrix(left[0], right[0], left[1], right[1])

    def at(self, tokens: slice) -> Matrix:
        return Matrix(*(entry[..., tokens, :] for entry in self))

    def transposed(self) -> Matrix:
        return Matrix(self.vv, self.wv, self.vw, self.ww)


def affine_scan_reference(a: Matrix, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The oracle of :func:`affine_scan`: token after token."""
    states = [(v[..., 0, :], w[..., 0, :])]
    for t in range(1, v.shape[-2]):
        here = Matrix(*(entry[..., t, :] for entry in a))
        moved = here.times(*states[-1])
        states.append((moved[0] + v[..., t, :], moved[1] + w[..., t, :]))
    return torch.stack([s[0] for s in states], -2), torch.stack([s[1] for s in states], -2)


def affine_scan(a: Matrix, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """States (v, w) (..., T, C) of ``s_t = A_t s_{t-1} + b_t`` from zero, with b = (v, w); A_0 is not read.

    Neighbours are composed to one map over two tokens, the shorter chain is solved in the same way, and the even tokens
    follow from the odd ones before them (Blelloch 1990).
    """
    steps = v.shape[-2]
    if steps == 1:
        return v, w
    even, odd = slice(0, steps - steps % 2, 2), slice(1, None, 2)
    later = a.at(odd)
    moved = later.times(v[..., even, :], w[..., even, :])
    odd_v, odd_w = affine_scan(later.after(a.at(even)), moved[0] + v[..., odd, :], moved[1] + w[..., odd, :])
    out_v, out_w = v.clone(), w.clone()
    out_v[..., odd, :], out_w[..., odd, :] = odd_v, odd_w
    rest, before = slice(2, None, 2), slice(0, (steps - 1) // 2)
    moved = a.at(rest).times(odd_v[..., before, :], odd_w[..., before, :])
    out_v[..., rest, :] += moved[0]
    out_w[..., rest, :] += moved[1]
    return out_v, out_w


def anchored(a: Matrix, v: Tensor, w: Tensor, path: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``path``, the known states of ``affine_scan(a, v, w)``, with their gradient in v and w: one scan in backward."""
    found: tuple[Tensor, Tensor] = _anchored(torch.stack(a), v, w, *path)
    return found


@torch.library.custom_op("neurons::anchored_chain", mutates_args=())
def _anchored(a: Tensor, v: Tensor, w: Tensor, path_v: Tensor, path_w: Tensor) -> tuple[Tensor, Tensor]:
    return path_v.clone(), path_w.clone()


@_anchored.register_fake
def _(a: Tensor, v: Tensor, w: Tensor, path_v: Tensor, path_w: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(path_v), torch.empty_like(path_w)


@torch.library.custom_op("neurons::adjoint_chain", mutates_args=())
def _adjoint(a: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """lambda_t = grad_t + A_{t+1}^T lambda_{t+1}: the same chain, from the last token to the first."""
    back = Matrix(*(entry.flip(-2).roll(1, -2) for entry in Matrix(*a).transposed()))
    dv, dw = affine_scan(back, v.flip(-2), w.flip(-2))
    return dv.flip(-2), dw.flip(-2)


@_adjoint.register_fake
def _(a: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(w)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(ctx: Any, v: Tensor, w: Tensor) -> tuple[Tensor | None, ...]:
    return None, *_adjoint(ctx.saved_tensors[0], v, w), None, None


_anchored.register_autograd(_backward, setup_context=_keep)
