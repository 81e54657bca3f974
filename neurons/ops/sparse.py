"""Sparse synapses: every output row adds a few weighted inputs, at the cost of those few.

    out[r, n] = sum_k weight[r, k] * x[index[r, k], n]

The naive forms are a masked dense product and a gather (``x[index]``), which stores K copies of the output. Here the
forward pass is an embedding bag, the input gradient is an embedding bag over the transposed index, and the weight
gradient is the embedding bag's own kernel. All three take the rows in blocks, so that what a block reads and writes
stays in the processor's cache: the transposed index is sorted within each block, not over all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Block(NamedTuple):
    """Consecutive rows with their synapses, in both directions.

    inputs (r, K) the input of each synapse; order (r*K,) the synapses sorted by input; rows (r*K,) the row of each
    sorted synapse, counted within the block; offsets (I,) where each input's synapses begin.
    """

    part: slice
    inputs: Tensor
    order: Tensor
    rows: Tensor
    offsets: Tensor

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (I, N), weight (r, K) -> (r, N)."""
        return F.embedding_bag(self.inputs, x, per_sample_weights=weight, mode="sum")

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """grad (r, N), weight (r, K) -> (I, N)."""
        sorted_weight = weight.flatten().index_select(0, self.order)
        return F.embedding_bag(self.rows, grad, self.offsets, per_sample_weights=sorted_weight, mode="sum")

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """grad (r, N), x (I, N) -> (r, K)."""
        bags = torch.arange(self.inputs.shape[0], device=self.inputs.device, dtype=self.inputs.dtype)
        synapses = self.inputs.shape[1]
        sums: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, x, self.inputs.flatten(), bags * synapses, bags.repeat_interleave(synapses), 0
        )
        return sums.view_as(self.inputs)


class Synapses(NamedTuple):
    """The synapses of R rows with K inputs each, in blocks of ``block`` rows; made by ``transpose_index``.

    inputs (R, K); order, rows (R*K,) and offsets (blocks, I) as in ``Block``, one block after the other.
    """

    inputs: Tensor
    order: Tensor
    rows: Tensor
    offsets: Tensor
    block: int

    def blocks(self) -> Iterator[Block]:
        total, synapses = self.inputs.shape
        for number, start in enumerate(range(0, total, self.block)):
            part = slice(start, min(start + self.block, total))
            flat = slice(start * synapses, part.stop * synapses)
            yield Block(part, self.inputs[part], self.order[flat], self.rows[flat], self.offsets[number])


def random_index(rows: int, inputs: int, synapses: int, generator: torch.Generator | None = None) -> Tensor:
    """(rows, synapses) int64: for each row, distinct inputs drawn uniformly."""
    # Parts bound the memory: a row needs one random key per input.
    size = max(1, 2**24 // inputs)
    parts = [
        torch.rand(min(size, rows - start), inputs, generator=generator).topk(synapses, dim=1, sorted=False).indices
        for start in range(0, rows, size)
    ]
    return torch.cat(parts).sort(dim=1).values


def window_index(rows: int, shape: tuple[int, ...], window: tuple[int, ...]) -> Tensor:
    """(rows, prod(window)) int64: for each row, the inputs of one window, at a place drawn uniformly.

    The inputs lie on a grid of ``shape`` in row-major order; a line of I inputs is the grid (I,). Windows do not wrap.
    """
    index = torch.zeros(rows, 1, dtype=torch.int64)
    for size, extent in zip(shape, window, strict=True):
        places = torch.randint(size - extent + 1, (rows, 1)) + torch.arange(extent)
        index = (index.unsqueeze(-1) * size + places.unsqueeze(1)).flatten(1)
    return index


def transpose_index(index: Tensor, inputs: int, block: int | None = None) -> Synapses:
    """Sort the synapses of ``index`` (R, K) by input within blocks of ``block`` rows; None is one block."""
    total, synapses = index.shape
    block = min(block or total, total)
    row = torch.arange(total, device=index.device).unsqueeze(1).expand_as(index).flatten()
    number = row // block
    key = number * inputs + index.flatten()
    sorted_key = key.argsort(stable=True)
    blocks = -(-total // block)
    counts = torch.bincount(key, minlength=blocks * inputs).view(blocks, inputs)
    return Synapses(
        inputs=index,
        order=sorted_key - number * block * synapses,
        rows=row[sorted_key] % block,
        offsets=counts.cumsum(1) - counts,
        block=block,
    )


def sparse_sum_dense(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """The oracle: scatter the weights into a dense (R, I) matrix and multiply. x (I, N) -> (R, N)."""
    dense = x.new_zeros(index.shape[0], x.shape[0]).scatter_add(1, index, weight)
    return dense @ x


def sparse_sum(x: Tensor, weight: Tensor, synapses: Synapses) -> Tensor:
    """x (I, N), weight (R, K) -> (R, N). Differentiable once, in x and weight."""
    result: Tensor = _SparseSum.apply(x.contiguous(), weight, synapses)
    return result


class _SparseSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, synapses: Synapses) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.synapses = synapses
        return F.embedding_bag(synapses.inputs, x, per_sample_weights=weight, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        dw = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for block in ctx.synapses.blocks():
            if dx is not None:
                dx += block.input_gradient(grad[block.part], weight[block.part])
            if dw is not None:
                dw[block.part] = block.weight_gradient(grad[block.part], x)
        return dx, dw, None
