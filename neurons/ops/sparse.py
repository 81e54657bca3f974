"""Sparse synapses: every output row adds a few weighted inputs, at the cost of those few.

    out[r, n] = sum_k weight[r, k] * x[index[r, k], n]

The naive forms are a masked dense product and a gather (``x[index]``), which stores K copies of the output. Here the
forward pass is an embedding bag, the input gradient is an embedding bag over the transposed index, and the weight
gradient is the embedding bag's own kernel, so nothing larger than the output is ever stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Synapses(NamedTuple):
    """The synapses of R rows with K inputs each, in both directions; made by ``transpose_index``.

    inputs (R, K) the input of each synapse; order (R*K,) the synapses sorted by input; rows (R*K,) the row of each
    sorted synapse; offsets (I,) where each input's synapses begin.
    """

    inputs: Tensor
    order: Tensor
    rows: Tensor
    offsets: Tensor

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """grad (R, N), weight (R, K) -> (I, N)."""
        sorted_weight = weight.flatten()[self.order]
        return F.embedding_bag(self.rows, grad, self.offsets, per_sample_weights=sorted_weight, mode="sum")

    def weight_gradient(self, grad: Tensor, x: Tensor, part: slice = slice(None)) -> Tensor:
        """grad (R, N) of the rows in ``part``, x (I, N) -> (R, K)."""
        index = self.inputs[part]
        bags = torch.arange(index.shape[0], device=index.device)
        of_synapse = bags.repeat_interleave(index.shape[1])
        sums: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, x, index.flatten(), bags * index.shape[1], of_synapse, 0
        )
        return sums.view_as(index)


def random_index(rows: int, inputs: int, synapses: int, generator: torch.Generator | None = None) -> Tensor:
    """(rows, synapses) int64: for each row, distinct inputs drawn uniformly."""
    # Blocks bound the memory: a row needs one random key per input.
    block = max(1, 2**24 // inputs)
    parts = [
        torch.rand(min(block, rows - start), inputs, generator=generator).topk(synapses, dim=1, sorted=False).indices
        for start in range(0, rows, block)
    ]
    return torch.cat(parts).sort(dim=1).values


def transpose_index(index: Tensor, inputs: int) -> Synapses:
    """Sort the synapses of ``index`` (R, K) by input."""
    flat = index.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=inputs)
    return Synapses(index, order, order // index.shape[1], counts.cumsum(0) - counts)


def sparse_sum_dense(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """The oracle: scatter the weights into a dense (R, I) matrix and multiply. x (I, N) -> (R, N)."""
    dense = x.new_zeros(index.shape[0], x.shape[0]).scatter_add(1, index, weight)
    return dense @ x


def sparse_sum(x: Tensor, weight: Tensor, synapses: Synapses) -> Tensor:
    """x (I, N), weight (R, K) -> (R, N). Differentiable once, in x and weight."""
    result: Tensor = _SparseSum.apply(x.contiguous(), weight, *synapses)
    return result


class _SparseSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *synapses: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, *synapses)
        return F.embedding_bag(synapses[0], x, per_sample_weights=weight, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *tensors = ctx.saved_tensors
        synapses, grad = Synapses(*tensors), grad.contiguous()
        dx = synapses.input_gradient(grad, weight) if ctx.needs_input_grad[0] else None
        dw = synapses.weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None, None, None
