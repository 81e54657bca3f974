"""Dendritic branches: which inputs a branch sees, and the potential it builds from them.

Both kinds map x (N, inputs) to potentials ``u_sb = w_sb . x_I(s,b) + theta_sb`` of shape (branches, N, somas), and with
``leaky_sum`` to the soma at once, ``sum_b c_sb f(u_sb)`` with f a leaky ReLU, in the fast form. No weight is masked:
what a branch does not see has neither parameter nor product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neurons.dendrites.branch_sum import disjoint_branch_sum, sparse_branch_sum
from neurons.errors import UsageError
from neurons.ops.sparse import Synapses, random_index, sparse_sum, transpose_index


class DisjointBranches(nn.Module):
    """Branch b of every soma sees block b of the inputs: one batched product over the blocks.

    ``inputs * somas`` weights, as many as a dense layer of ``somas`` units. UsageError if the blocks are not equal.
    """

    def __init__(self, *, inputs: int, somas: int, branches: int) -> None:
        super().__init__()
        if inputs % branches:
            raise UsageError(
                f"{inputs} inputs do not split into {branches} equal branches; choose a divisor of {inputs}"
            )
        self.inputs, self.somas, self.branches = inputs, somas, branches
        self.synapses = inputs // branches
        # Unit-variance potentials for unit-variance inputs.
        self.weight = nn.Parameter(torch.randn(branches, self.synapses, somas) / math.sqrt(self.synapses))
        self.threshold = nn.Parameter(torch.zeros(branches, somas))

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (self.branches, self.synapses)).transpose(0, 1)
        return torch.baddbmm(self.threshold.unsqueeze(1), blocks, self.weight)

    def leaky_sum(self, x: Tensor, strength: Tensor, slope: float) -> Tensor:
        return disjoint_branch_sum(x, self.weight, self.threshold, strength, slope)


class SparseBranches(nn.Module):
    """Each branch sees ``synapses`` inputs drawn at random, without repetition, when the layer is built.

    The wiring is a buffer, so a checkpoint carries it. ``branches * somas * synapses`` weights.
    """

    index: Tensor
    order: Tensor
    rows: Tensor
    offsets: Tensor

    def __init__(self, *, inputs: int, somas: int, branches: int, synapses: int) -> None:
        super().__init__()
        if not 1 <= synapses <= inputs:
            raise UsageError(f"a branch cannot draw {synapses} different synapses from {inputs} inputs")
        self.inputs, self.somas, self.branches, self.synapses = inputs, somas, branches, synapses
        rows = branches * somas
        self.weight = nn.Parameter(torch.randn(rows, synapses) / math.sqrt(synapses))
        self.threshold = nn.Parameter(torch.zeros(branches, somas))
        wiring = transpose_index(random_index(rows, inputs, synapses), inputs)
        for name, tensor in zip(("index", "order", "rows", "offsets"), wiring, strict=True):
            self.register_buffer(name, tensor)

    def _wiring(self) -> Synapses:
        return Synapses(self.index, self.order, self.rows, self.offsets)

    def forward(self, x: Tensor) -> Tensor:
        summed = sparse_sum(x.to(self.weight.dtype).t(), self.weight, self._wiring())
        return summed.view(self.somas, self.branches, -1).permute(1, 2, 0) + self.threshold.unsqueeze(1)

    def leaky_sum(self, x: Tensor, strength: Tensor, slope: float) -> Tensor:
        return sparse_branch_sum(x.t(), self.weight, self._wiring(), self.threshold.t(), strength.t(), slope).t()
