"""The weighted sum over the branches of a neuron, ``y_s = theta_s + sum_b c_sb f(u_sb)``, with f a leaky ReLU.

``branch_sum_reference`` is the sum, for any f. ``disjoint_branch_sum`` computes potentials, nonlinearity and sum
block by block in the processor's cache, ``gated_branch_sum`` the apical gate with them. The potentials are ``branches``
times as large as the result, and moving them costs more than computing them, so they are never stored: the backward
pass forms them again. Inputs from two places are joined block by block too: fresh memory costs a page fault per 4 KiB.

Backward. A leaky ReLU is homogeneous, f(u) = f'(u) u. With q_sb = f'(u_sb) dL/dy_s the gradients are
    dw_sb = c_sb x_b^T q_sb,    dtheta_sb = c_sb sum q_sb,    dc_sb = w_sb . (x_b^T q_sb) + theta_sb sum q_sb,
so one elementwise pass, the one that forms q, serves all of them. Differentiable once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHED = 2**18  # branch potentials held at once: 1 MiB of float32


class Tree(NamedTuple):
    """Branches on disjoint blocks of inputs: x (N, branches * K), weight (branches, K, S), the rest (branches, S).

    ``other`` (N, branches * K'): further inputs, whose block b lies on branch b too; weight is then
    (branches, K + K', S).
    """

    x: Tensor
    weight: Tensor
    threshold: Tensor
    strength: Tensor
    other: Tensor | None = None

    def blocks(self, *inputs: Tensor) -> list[Tensor]:
        """Each of (N, branches * K) as (branches, N, K), a view."""
        return [x.unflatten(-1, (len(self.weight), -1)).transpose(0, 1) for x in inputs]

    @property
    def sources(self) -> list[Tensor]:
        return self.blocks(self.x) if self.other is None else self.blocks(self.x, self.other)


def branch_sum_reference(potential: Tensor, strength: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """potential (branches, N, S), strength (branches, S) -> (N, S)."""
    return (f(potential) * strength.unsqueeze(1)).sum(0)


def disjoint_branch_sum(tree: Tree, slope: float, threshold: Tensor | None = None) -> Tensor:
    """``theta_s + sum_b c_sb f(u_sb)``, (N, S); slope > 0, threshold (S,) or None for 0."""
    if not torch.is_grad_enabled():
        return _sum(tree, slope, threshold)
    result: Tensor = _Sum.apply(slope, threshold, *tree)
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
        self.sources, self.weight, self.threshold = tree.sources, tree.weight, tree.threshold.unsqueeze(1)
        self.strength = tree.strength if gain == 1 else tree.strength * gain
        self.offset = offset if offset is None or gain == 1 else offset * gain
        self.buffer, self.slope = buffer, slope
        self.joined: Tensor | None = None
        if tree.other is not None:
            self.joined = tree.x.new_empty(_part(tree), *tree.weight.shape[:2]).transpose(0, 1)

    def __call__(self, part: slice, out: Tensor) -> None:
        branches, _, somas = self.weight.shape
        x = self.sources[0][:, part]
        if self.joined is not None:
            x = _join(self.sources, part, self.joined)
        u = self.buffer[: branches * out.numel()].view(branches, -1, somas)
        torch.baddbmm(self.threshold, x, self.weight, out=u)
        F.leaky_relu_(u, self.slope)
        if self.offset is None:
            torch.mul(u[0], self.strength[0], out=out)
        else:
            torch.addcmul(self.offset, u[0], self.strength[0], out=out)
        for branch in range(1, branches):
            out.addcmul_(u[branch], self.strength[branch])


def _join(sources: list[Tensor], part: slice, buffer: Tensor) -> Tensor:
    """The inputs of ``part`` from all sources side by side, in the first columns of buffer (branches, n or more, .)."""
    x, start = buffer[:, : part.stop - part.start], 0
    for source in sources:
        x[..., start : start + source.shape[-1]] = source[:, part]
        start += source.shape[-1]
    return x


def _gradients(
    tree: Tree, seed: Callable[[slice], Tensor], slope: float, gain: float = 1.0
) -> tuple[Tensor | None, ...]:
    """Gradients of a Tree's tensors; ``seed(part)`` (n, S) is the gradient of ``gain`` times its sum."""
    branches, synapses, somas = tree.weight.shape
    size = _part(tree)
    strength = (tree.strength * gain).unsqueeze(1)
    # The threshold is the synapse of a constant input.
    weight = torch.cat([tree.weight, tree.threshold.unsqueeze(1)], 1)
    inputs = tree.x.new_ones(size, branches, synapses + 1).transpose(0, 1)
    back = (tree.weight * strength).transpose(1, 2).contiguous()
    dx = torch.empty_like(tree.x)
    dother = None if tree.other is None else torch.empty_like(tree.other)
    sources = tree.sources
    grads = tree.blocks(dx) if dother is None else tree.blocks(dx, dother)
    correlation = torch.zeros_like(weight)
    buffer, dinputs = dx.new_empty(branches * size * somas), dx.new_empty(branches * size * synapses)
    for part in _parts(tree):
        n = part.stop - part.start
        x, u = _join(sources, part, inputs), buffer[: branches * n * somas].view(branches, n, somas)
        torch.bmm(x, weight, out=u)
        # q overwrites u: a fresh buffer would cost more in page faults than the arithmetic.
        q = leaky_relu_backward(seed(part).expand_as(u), u, slope, out=u)
        correlation.baddbmm_(x.transpose(1, 2), q)
        of_x = torch.bmm(q, back, out=dinputs[: branches * n * synapses].view(branches, n, synapses))
        for grad, columns in zip(grads, of_x.split([s.shape[-1] for s in sources], -1), strict=True):
            grad[:, part] = columns
    dstrength = (weight * correlation).sum(1) * gain
    dweight = correlation * strength
    return dx, dweight[:, :-1], dweight[:, -1], dstrength, dother


def _sum(tree: Tree, slope: float, threshold: Tensor | None) -> Tensor:
    buffer = tree.x.new_empty(_part(tree) * tree.threshold.numel())
    sums = _Sums(tree, buffer, slope, offset=threshold)
    y = tree.x.new_empty(tree.x.shape[0], tree.weight.shape[2])
    for part in _parts(tree):
        sums(part, y[part])
    return y


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: float, threshold: Tensor | None, *tree: Any) -> Tensor:
        ctx.save_for_backward(*tree)
        ctx.slope = slope
        return _sum(Tree(*tree), slope, threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dthreshold = grad.sum(0) if ctx.needs_input_grad[1] else None
        return None, dthreshold, *_gradients(Tree(*ctx.saved_tensors), lambda part: grad[part], ctx.slope)


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
    def forward(ctx: Any, slope: float, threshold: Tensor, *trees: Any) -> Tensor:
        y, drive, gate = _gated(Tree(*trees[:5]), Tree(*trees[5:]), threshold, slope, keep=True)
        ctx.save_for_backward(drive, gate, *trees)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        drive, gate, *trees = ctx.saved_tensors
        basal, apical = Tree(*trees[:5]), Tree(*trees[5:])
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
