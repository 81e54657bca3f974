"""``y_s = sum_b c_sb f(u_sb)`` over branches that draw their inputs freely, with f a leaky ReLU, in cache-sized blocks.

Tokens and somas are taken in blocks whose potentials fit the processor's cache; only x is stored for the backward
pass, which forms the potentials again. A leaky ReLU is homogeneous, f(u) = f'(u) u, so with q_sb = f'(u_sb) dL/dy_s

    dw_sb = c_sb q_sb . x_I(s,b),   dtheta_sb = c_sb sum q_sb,   dc_sb = w_sb . (q_sb . x_I(s,b)) + theta_sb sum q_sb,
    dx    = sum over synapses of c_sb w_sb q_sb,

and one elementwise pass over the branches, the one that forms q, serves all of them. Differentiable once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neurons.dendrites.branch_sum import leaky_relu_backward
from neurons.ops.sparse import Block, Synapses

# Branches in a block, and potentials of a block (128 tokens): 1 MiB of float32. Half of either is slower: every block
# pays for a gradient of all the inputs.
ROWS = 2**11
CACHED = 2**18


def block_rows(somas: int, branches: int) -> int:
    """Rows of a block of whole somas; what ``transpose_index`` must be given."""
    return min(somas, max(1, ROWS // branches)) * branches


def sparse_branch_sum(
    x: Tensor, weight: Tensor, synapses: Synapses, threshold: Tensor, strength: Tensor, slope: float
) -> Tensor:
    """x (N, I), weight (S * branches, K), threshold and strength (S, branches), slope > 0 -> (N, S).

    ``synapses`` in blocks of whole somas (``block_rows``).
    """
    result: Tensor = _SparseBranchSum.apply(x, weight, threshold.contiguous(), strength.contiguous(), synapses, slope)
    return result


def _chunks(tokens: int, rows: int) -> Iterator[slice]:
    size = max(1, CACHED // rows)
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


def _potentials(block: Block, x: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
    """x (I, n), weight (r, K), threshold (S * branches, 1) -> (r, n)."""
    return block.forward(x, weight[block.part]).add_(threshold[block.part])


class _SparseBranchSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, threshold: Tensor, strength: Tensor, synapses: Synapses, slope: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, threshold, strength)
        ctx.synapses, ctx.slope = synapses, slope
        somas, branches = strength.shape
        bias = threshold.view(-1, 1)
        y = x.new_empty(x.shape[0], somas)
        for tokens in _chunks(x.shape[0], synapses.block):
            inputs = x[tokens].t().contiguous()
            sums = x.new_empty(somas, 1, inputs.shape[1])
            for block in synapses.blocks():
                u = F.leaky_relu_(_potentials(block, inputs, weight, bias), slope)
                part = slice(block.part.start // branches, block.part.stop // branches)
                torch.bmm(strength[part].unsqueeze(1), u.view(-1, branches, u.shape[1]), out=sums[part])
            y[tokens] = sums.squeeze(1).t()
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, threshold, strength = ctx.saved_tensors
        branches = strength.shape[1]
        bias, gain = threshold.view(-1, 1), strength.view(-1, 1)
        back = weight * gain
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        correlation, total = torch.zeros_like(weight), torch.zeros_like(bias)
        for tokens in _chunks(x.shape[0], ctx.synapses.block):
            inputs, seed = x[tokens].t().contiguous(), grad[tokens].t().contiguous()
            dinputs = torch.zeros_like(inputs)
            for block in ctx.synapses.blocks():
                u = _potentials(block, inputs, weight, bias)
                part = slice(block.part.start // branches, block.part.stop // branches)
                # q overwrites u: a fresh buffer would cost more in page faults than the arithmetic.
                u = u.view(-1, branches, u.shape[1])
                q = leaky_relu_backward(seed[part].unsqueeze(1).expand_as(u), u, ctx.slope, out=u).flatten(0, 1)
                correlation[block.part] += block.weight_gradient(q, inputs)
                total[block.part] += q.sum(-1, keepdim=True)
                if dx is not None:
                    dinputs += block.input_gradient(q, back[block.part])
            if dx is not None:
                dx[tokens] = dinputs.t()
        dstrength = (weight * correlation).sum(-1, keepdim=True) + bias * total
        dthreshold = (total * gain).view_as(threshold)
        return dx, correlation * gain, dthreshold, dstrength.view_as(strength), None, None
