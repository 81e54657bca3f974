"""The weighted sum over the branches of a neuron, ``y_s = sum_b c_sb f(u_sb)``, with f a leaky ReLU of slope a.

``branch_sum_reference`` is the equation, for any f. ``disjoint_branch_sum`` computes potentials, nonlinearity and sum
block by block in the processor's cache, ``gated_branch_sum`` the apical gate with them. The potentials are ``branches``
times as large as the result, and moving them costs more than computing them, so they are never stored: the backward
pass forms them again.

Forward. With the strength folded into the weights, v = c w . x and tau = c theta, a branch contributes
    c f(w . x + theta) = v + a tau - (1 - a) clip(v),   clip(v) = min(v, -tau) if c > 0 else max(v, -tau),
so one clamp per potential is all the elementwise work; the sums over branches are products with a row of ones.

Backward. A leaky ReLU is homogeneous, f(u) = f'(u) u. With q_sb = f'(u_sb) dL/dy_s the gradients are
    dw_sb = c_sb x_b^T q_sb,    dtheta_sb = c_sb sum q_sb,    dc_sb = w_sb . (x_b^T q_sb) + theta_sb sum q_sb,
so one elementwise pass, the one that forms q, serves all of them. Differentiable once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED = 2**17  # branch potentials held at once: 512 KiB of float32


class Tree(NamedTuple):
    """Branches on disjoint blocks of inputs: x (N, branches * K), weight (branches, K, S), the rest (branches, S)."""

    x: Tensor
    weight: Tensor
    threshold: Tensor
    strength: Tensor

    def blocks(self, x: Tensor) -> Tensor:
        """(N, branches * K) -> (branches, N, K), a view."""
        return x.unflatten(-1, self.weight.shape[:2]).transpose(0, 1)


def branch_sum_reference(potential: Tensor, strength: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """potential (branches, N, S), strength (branches, S) -> (N, S)."""
    return (f(potential) * strength.unsqueeze(1)).sum(0)


def disjoint_branch_sum(tree: Tree, slope: float) -> Tensor:
    """``sum_b c_sb f(u_sb)``, (N, S); slope in (0, 1)."""
    if not torch.is_grad_enabled():
        return _sum(tree, slope)
    result: Tensor = _Sum.apply(slope, *tree)
    return result


def gated_branch_sum(basal: Tree, apical: Tree, threshold: Tensor, slope: float) -> Tensor:
    """``(z_s + theta_s) (1 + tanh a_s)``, (N, S), with z and a the branch sums of the two trees; threshold (S,).

    The trees have equally many branches; their inputs may differ in width.
    """
    if not torch.is_grad_enabled():
        return _gated(basal, apical, threshold, slope, keep=False)[0]
    result: Tensor = _Gated.apply(slope, threshold, *basal, *apical)
    return result


def leaky_relu_backward(grad: Tensor, u: Tensor, slope: float, out: Tensor) -> Tensor:
    """f'(u) grad; ``out`` may be u itself."""
    q: Tensor = torch.ops.aten.leaky_relu_backward.grad_input(grad, u, slope, False, grad_input=out)
    return q


def _part(tree: Tree) -> int:
    """Tokens whose potentials are held at once."""
    return max(1, min(tree.x.shape[0], CACHED // tree.threshold.numel()))


def _parts(tree: Tree) -> Iterator[slice]:
    tokens, size = tree.x.shape[0], _part(tree)
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


class _Sums:
    """``part, out -> gain * (offset_s + sum_b c_sb f(u_sb))`` of the tokens in ``part``, written to out (n, S)."""

    def __init__(
        self, tree: Tree, buffer: Tensor, slope: float, *, gain: float = 1.0, offset: Tensor | None = None
    ) -> None:
        strength = (tree.strength * gain).unsqueeze(1)
        scaled = tree.threshold.unsqueeze(1) * strength
        constant = scaled.sum(0) * slope
        if offset is not None:
            constant.add_(offset, alpha=gain)
        # clip is a minimum where the strength is positive, a maximum elsewhere: the other bound is infinite.
        bound, other = scaled.neg(), torch.where(strength > 0, -math.inf, math.inf)
        self.low, self.high = torch.minimum(bound, other), torch.maximum(bound, other)
        self.blocks, self.weight, self.buffer = tree.blocks(tree.x), tree.weight * strength, buffer
        self.constant = constant.repeat(1, _part(tree))
        self.plus = strength.new_ones(1, len(strength))
        self.minus = strength.new_full((1, len(strength)), slope - 1)

    def __call__(self, part: slice, out: Tensor) -> None:
        branches, _, somas = self.weight.shape
        flat = self.buffer[: branches * out.numel()].view(branches, -1)
        v = flat.view(branches, -1, somas)
        torch.bmm(self.blocks[:, part], self.weight, out=v)
        sums = out.view(1, -1)
        torch.addmm(self.constant[:, : out.numel()], self.plus, flat, out=sums)
        v.clamp_(self.low, self.high)
        sums.addmm_(self.minus, flat)


def _gradients(tree: Tree, seed: Callable[[slice], Tensor], slope: float, gain: float = 1.0) -> tuple[Tensor, ...]:
    """Gradients of a Tree's four tensors; ``seed(part)`` (n, S) is the gradient of ``gain`` times its sum."""
    branches, synapses, somas = tree.weight.shape
    size = _part(tree)
    strength = (tree.strength * gain).unsqueeze(1)
    # The threshold is the synapse of a constant input.
    weight = torch.cat([tree.weight, tree.threshold.unsqueeze(1)], 1)
    inputs = tree.x.new_ones(size, branches, synapses + 1).transpose(0, 1)
    back = (tree.weight * strength).transpose(1, 2).contiguous()
    dx = torch.empty_like(tree.x)
    blocks, dblocks = tree.blocks(tree.x), tree.blocks(dx)
    correlation = torch.zeros_like(weight)
    buffer = dx.new_empty(branches * size * somas)
    for part in _parts(tree):
        n = part.stop - part.start
        x, u = inputs[:, :n], buffer[: branches * n * somas].view(branches, n, somas)
        x[..., :-1] = blocks[:, part]
        torch.bmm(x, weight, out=u)
        # q overwrites u: a fresh buffer would cost more in page faults than the arithmetic.
        q = leaky_relu_backward(seed(part).expand_as(u), u, slope, out=u)
        correlation.baddbmm_(x.transpose(1, 2), q)
        dblocks[:, part] = torch.bmm(q, back)
    dstrength = (weight * correlation).sum(1) * gain
    dweight = correlation * strength
    return dx, dweight[:, :-1], dweight[:, -1], dstrength


def _sum(tree: Tree, slope: float) -> Tensor:
    sums = _Sums(tree, tree.x.new_empty(_part(tree) * tree.threshold.numel()), slope)
    y = tree.x.new_empty(tree.x.shape[0], tree.weight.shape[2])
    for part in _parts(tree):
        sums(part, y[part])
    return y


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: float, *tree: Tensor) -> Tensor:
        ctx.save_for_backward(*tree)
        ctx.slope = slope
        return _sum(Tree(*tree), slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_gradients(Tree(*ctx.saved_tensors), lambda part: grad[part], ctx.slope)


def _gated(basal: Tree, apical: Tree, threshold: Tensor, slope: float, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and its two factors: ``2 (z + theta)`` and ``sigmoid(2 a)``, since 1 + tanh a = 2 sigmoid(2 a).

    Without ``keep`` the factors hold the last part only.
    """
    tokens, somas = basal.x.shape[0], threshold.shape[0]
    size = _part(basal)
    buffer = basal.x.new_empty(size * basal.threshold.numel())
    drives, apex = _Sums(basal, buffer, slope, gain=2, offset=threshold), _Sums(apical, buffer, slope, gain=2)
    y = basal.x.new_empty(tokens, somas)
    drive, gate = basal.x.new_empty(2, tokens if keep else size, somas)
    for part in _parts(basal):
        held = part if keep else slice(part.stop - part.start)
        drives(part, drive[held])
        apex(part, gate[held])
        torch.mul(drive[held], gate[held].sigmoid_(), out=y[part])
    return y, drive, gate


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: float, threshold: Tensor, *trees: Tensor) -> Tensor:
        y, drive, gate = _gated(Tree(*trees[:4]), Tree(*trees[4:]), threshold, slope, keep=True)
        ctx.save_for_backward(drive, gate, *trees)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        drive, gate, *trees = ctx.saved_tensors
        basal, apical = Tree(*trees[:4]), Tree(*trees[4:])
        ones = grad.new_ones(grad.shape[0])
        dthreshold = grad.new_zeros(grad.shape[1])

        def to_drive(part: slice) -> Tensor:
            seed = grad[part] * gate[part]
            dthreshold.addmv_(seed.t(), ones[part], alpha=2)
            return seed

        def to_apex(part: slice) -> Tensor:
            seed: Tensor = torch.ops.aten.sigmoid_backward(grad[part] * drive[part], gate[part])
            return seed

        dbasal = _gradients(basal, to_drive, ctx.slope, gain=2)
        return None, dthreshold, *dbasal, *_gradients(apical, to_apex, ctx.slope, gain=2)
