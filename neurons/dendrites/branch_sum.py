"""The weighted sum over the branches of a neuron, ``y_s = sum_b c_sb f(u_sb)``, with f a leaky ReLU.

``branch_sum_reference`` is the equation, for any f. ``disjoint_branch_sum`` and ``sparse_branch_sum`` compute
potentials, nonlinearity and sum block by block in the processor's cache, and store only x for the backward pass: the
potentials are ``branches`` times as large as the result, and moving them costs more than computing them.

A leaky ReLU is homogeneous, f(u) = f'(u) u. With q_sb = f'(u_sb) dL/dy_s the gradients are therefore
    dw_sb = c_sb x_b^T q_sb,    dtheta_sb = c_sb sum q_sb,    dc_sb = w_sb . (x_b^T q_sb) + theta_sb sum q_sb,
so one elementwise pass over the branches, the one that forms q, serves all of them. Both are differentiable once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neurons.ops.sparse import Synapses

CACHED = 2**17  # branch potentials held at once: 512 KiB of float32


def branch_sum_reference(potential: Tensor, strength: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """potential (branches, N, S), strength (branches, S) -> (N, S)."""
    return (f(potential) * strength.unsqueeze(1)).sum(0)


def disjoint_branch_sum(x: Tensor, weight: Tensor, threshold: Tensor, strength: Tensor, slope: float) -> Tensor:
    """x (N, branches * K), weight (branches, K, S), threshold and strength (branches, S), slope > 0 -> (N, S)."""
    result: Tensor = _DisjointBranchSum.apply(x, weight, threshold, strength, slope)
    return result


def sparse_branch_sum(
    x: Tensor, weight: Tensor, synapses: Synapses, threshold: Tensor, strength: Tensor, slope: float
) -> Tensor:
    """x (I, N), weight (S * branches, K), threshold and strength (S, branches), slope > 0 -> (S, N)."""
    result: Tensor = _SparseBranchSum.apply(x.contiguous(), weight, threshold, strength, slope, *synapses)
    return result


def _blocks(x: Tensor, weight: Tensor) -> Tensor:
    return x.unflatten(-1, weight.shape[:2]).transpose(0, 1)


def _with_bias(x: Tensor, weight: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks (branches, N, K + 1), weights (branches, K + 1, S): the threshold is the synapse of a constant input."""
    blocks = _blocks(x, weight)
    ones = blocks.new_ones(()).expand(*blocks.shape[:-1], 1)
    return torch.cat([blocks, ones], -1), torch.cat([weight, threshold.unsqueeze(1)], 1)


def _disjoint_potentials(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Parts of the tokens with their potentials (branches, n, S), in one buffer that every step overwrites."""
    (branches, tokens, _), somas = x.shape, weight.shape[2]
    size = max(1, min(tokens, CACHED // (branches * somas)))
    buffer = x.new_empty(branches * size * somas)
    for start in range(0, tokens, size):
        part = slice(start, min(start + size, tokens))
        u = buffer[: branches * (part.stop - start) * somas].view(branches, -1, somas)
        yield part, torch.bmm(x[:, part], weight, out=u)


class _DisjointBranchSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, threshold: Tensor, strength: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x, weight, threshold, strength)
        ctx.slope = slope
        y = x.new_empty(x.shape[0], weight.shape[2])
        for part, u in _disjoint_potentials(*_with_bias(x, weight, threshold)):
            F.leaky_relu_(u, slope).mul_(strength.unsqueeze(1))
            torch.sum(u, 0, out=y[part])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, threshold, strength = ctx.saved_tensors
        blocks, synapses = _with_bias(x, weight, threshold)
        dx = torch.empty_like(x)
        written = _blocks(dx, weight)
        back = (weight * strength.unsqueeze(1)).transpose(1, 2).contiguous()
        correlation = torch.zeros_like(synapses)
        for part, u in _disjoint_potentials(blocks, synapses):
            # q overwrites u: a fresh buffer would cost more in page faults than the arithmetic.
            q = _leaky_relu_backward(grad[part].expand_as(u), u, ctx.slope, out=u)
            correlation.baddbmm_(blocks[:, part].transpose(1, 2), q)
            written[:, part] = torch.bmm(q, back)
        dstrength = (synapses * correlation).sum(1)
        dweight = correlation * strength.unsqueeze(1)
        return dx, dweight[:, :-1], dweight[:, -1], dstrength, None


def _sparse_potentials(
    x: Tensor, weight: Tensor, index: Tensor, threshold: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Parts of the somas, their rows of the index, and their potentials (n, branches, N)."""
    somas, branches = threshold.shape
    size = max(1, CACHED // (branches * x.shape[1]))
    for start in range(0, somas, size):
        part = slice(start, min(start + size, somas))
        rows = slice(start * branches, part.stop * branches)
        u = F.embedding_bag(index[rows], x, per_sample_weights=weight[rows], mode="sum")
        yield part, rows, u.view(-1, branches, x.shape[1]).add_(threshold[part].unsqueeze(-1))


class _SparseBranchSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, threshold: Tensor, strength: Tensor, slope: float, *synapses: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, threshold, strength, *synapses)
        ctx.slope = slope
        y = x.new_empty(threshold.shape[0], x.shape[1])
        for part, _, u in _sparse_potentials(x, weight, synapses[0], threshold):
            torch.sum(F.leaky_relu_(u, slope).mul_(strength[part].unsqueeze(-1)), 1, out=y[part])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, threshold, strength, *synapses = ctx.saved_tensors
        wiring = Synapses(*synapses)
        q = x.new_empty(*threshold.shape, x.shape[1])
        correlation = torch.empty_like(weight)
        for part, rows, u in _sparse_potentials(x, weight, wiring.inputs, threshold):
            _leaky_relu_backward(grad[part].unsqueeze(1).expand_as(u), u, ctx.slope, out=q[part])
            correlation[rows] = wiring.weight_gradient(q[part].flatten(0, 1), x, rows)
        total = q.sum(-1)
        gain = strength.reshape(-1, 1)
        dx = wiring.input_gradient(q.flatten(0, 1), weight * gain) if ctx.needs_input_grad[0] else None
        dstrength = (weight * correlation).sum(-1).view_as(total) + threshold * total
        return dx, correlation * gain, total * strength, dstrength, None, None, None, None, None


def _leaky_relu_backward(grad: Tensor, u: Tensor, slope: float, out: Tensor) -> Tensor:
    q: Tensor = torch.ops.aten.leaky_relu_backward.grad_input(grad, u, slope, False, grad_input=out)
    return q
