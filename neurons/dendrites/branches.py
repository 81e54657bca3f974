"""Dendritic branches: which inputs a branch sees, and the potential it builds from them.

Both kinds map x (N, inputs) to potentials ``u_sb = w_sb . x_I(s,b) + theta_sb`` of shape (branches, N, somas), and with
``leaky_sum`` to the soma at once, ``sum_b c_sb f(u_sb)`` with f a leaky ReLU, in the fast form. No weight is masked:
what a branch does not see has neither parameter nor product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neurons.dendrites.branch_sum import Tree, disjoint_branch_sum
from neurons.dendrites.sparse_branch_sum import block_rows, sparse_branch_sum
from neurons.errors import UsageError
from neurons.ops.sparse import Synapses, random_index, sparse_sum, transpose_index, window_index


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

    def tree(self, x: Tensor, strength: Tensor, other: Tensor | None = None) -> Tree:
        return Tree(x, self.weight, self.threshold, strength, other)

    def leaky_sum(self, x: Tensor, strength: Tensor, slope: float) -> Tensor:
        return disjoint_branch_sum(self.tree(x, strength), slope)


class SparseBranches(nn.Module):
    """Each branch sees ``synapses`` inputs of its own, drawn when the layer is built.

    window None: drawn at random, without repetition.  Otherwise the branch's receptive field: a window of that shape
    at a random place of the inputs, which lie in row-major order on the grid ``shape``; ``synapses`` is its size.

    The wiring is a buffer, so a checkpoint carries it; its transpose is derived from it.
    ``branches * somas * synapses`` weights.
    """

    index: Tensor
    order: Tensor
    rows: Tensor
    offsets: Tensor

    def __init__(
        self,
        *,
        inputs: int,
        somas: int,
        branches: int,
        synapses: int,
        shape: tuple[int, ...] = (),
        window: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= synapses <= inputs:
            raise UsageError(
                f"a branch cannot draw {synapses} different synapses from {inputs} inputs; "
                f"choose synapses from 1 to {inputs}"
            )
        if window is not None and any(extent > size for extent, size in zip(window, shape, strict=True)):
            raise UsageError(f"a window of {window} does not fit into inputs of shape {shape}; choose fewer synapses")
        self.inputs, self.somas, self.branches, self.synapses = inputs, somas, branches, synapses
        self.shape, self.window = shape, window
        rows = branches * somas
        self.weight = nn.Parameter(torch.randn(rows, synapses) / math.sqrt(synapses))
        self.threshold = nn.Parameter(torch.zeros(branches, somas))
        index = random_index(rows, inputs, synapses) if window is None else window_index(rows, shape, window)
        self.register_buffer("index", index)
        for name in ("order", "rows", "offsets"):
            self.register_buffer(name, None, persistent=False)
        _derive_transpose(self)
        self.register_load_state_dict_post_hook(_derive_transpose)

    def _wiring(self) -> Synapses:
        return Synapses(self.index, self.order, self.rows, self.offsets, block_rows(self.somas, self.branches))

    def forward(self, x: Tensor) -> Tensor:
        summed = sparse_sum(x.to(self.weight.dtype).t(), self.weight, self._wiring())
        return summed.view(self.somas, self.branches, -1).permute(1, 2, 0) + self.threshold.unsqueeze(1)

    def leaky_sum(self, x: Tensor, strength: Tensor, slope: float) -> Tensor:
        return sparse_branch_sum(x, self.weight, self._wiring(), self.threshold.t(), strength.t(), slope)


def _derive_transpose(tree: nn.Module, *_: object) -> None:
    assert isinstance(tree, SparseBranches)
    wiring = transpose_index(tree.index, tree.inputs, block_rows(tree.somas, tree.branches))
    tree.order, tree.rows, tree.offsets = wiring.order, wiring.rows, wiring.offsets
