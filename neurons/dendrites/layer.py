"""A layer of neurons with dendrites: nonlinear branches before a soma, and an apical tree that modulates it.

y_s = g( sum_b c_sb f(u_sb) + theta_s ),    u_sb = w_sb . x_I(s,b) + theta_sb
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.dendrites import branch_sum
from neurons.dendrites.branch_sum import branch_sum_reference, disjoint_branch_sum, gated_branch_sum
from neurons.dendrites.branches import DisjointBranches, SparseBranches
from neurons.errors import UsageError, nearest

SLOPE = 0.1


def _identity(x: Tensor) -> Tensor:
    return x


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": _leaky_relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "linear": _identity,
}
# 1 / sqrt(E[f(u)^2]) for u ~ N(0, 1): keeps the variance through f.
GAINS = {"leaky_relu": math.sqrt(2 / 1.01), "gelu": 1.5335, "tanh": 1.5925, "linear": 1.0}


class DendriticLayer(nn.Module):
    """Neurons whose branches have their own inputs and nonlinearity: (..., basal) [, (..., apical)] -> (..., somas).

    Basal branches read the token and drive the soma; apical branches, if ``apical`` > 0, read the context (what the
    attention brought) and form ``a_s = sum_b c'_sb f(u'_sb)`` in the same way.

    - soma ``sum``: ``z_s = sum_b c_sb f(u_sb)``.  soma ``and``: ``z_s = prod_b sigmoid(c_sb f(u_sb))``, the neuron
      answers only if all its branches do; computed as ``exp(sum_b logsigmoid(.))``.
    - apical_mode ``branch``: no tree of its own; the synapses of both inputs lie on the same branches, so that branch b
      sees block b of either, ``u_sb = w_sb . (x_b, x'_b) + theta_sb``, and its nonlinearity is where token and context
      meet (a random half or so of each if ``inputs`` is ``sparse``).
      apical_mode ``gate``: ``y_s = g(z_s + theta_s) (1 + tanh a_s)``: the apex cannot fire the neuron, it amplifies it
      up to twofold or silences it; a silent apex is a gain of 1. After Larkum 2013 (apical amplification) and the
      multiplicative context gate of Iyer et al. 2022 (active dendrites).
      apical_mode ``add``: ``y_s = g(z_s + a_s + theta_s)``, the point-neuron reading of the same wiring.
    - inputs ``disjoint``: branch b sees block b of the inputs.  ``sparse``: each branch sees ``synapses`` random inputs
      (Chavlis & Poirazi 2025: 16 synapses, leaky ReLU of slope 0.1 in branch and soma).  ``local``: each branch sees a
      window of ``synapses`` neighbouring inputs at a random place; with ``grid`` = (height, width) the basal inputs are
      an image in row-major order and the window is a square of it.

    ``activation`` is f, ``soma_activation`` is g; where the result goes straight into a residual stream choose
    ``linear`` for g. c, theta and the weights are trained. Unit-variance inputs give potentials and somatic sums of
    unit variance; half of the branches start inhibitory (c < 0) so that a sum of branches starts without an offset.

    UsageError for unknown names, widths that do not split into equal branches, windows that do not fit.
    """

    def __init__(
        self,
        *,
        basal: int,
        somas: int,
        apical: int = 0,
        branches: int = 4,
        inputs: Literal["disjoint", "sparse", "local"] = "disjoint",
        synapses: int = 16,
        grid: tuple[int, int] | None = None,
        soma: Literal["sum", "and"] = "sum",
        apical_mode: Literal["branch", "gate", "add"] = "gate",
        activation: Literal["leaky_relu", "gelu", "tanh", "linear"] = "leaky_relu",
        soma_activation: Literal["leaky_relu", "gelu", "tanh", "linear"] = "leaky_relu",
    ) -> None:
        super().__init__()
        _choose("inputs", inputs, ("disjoint", "sparse", "local"))
        _choose("soma", soma, ("sum", "and"))
        _choose("apical_mode", apical_mode, ("branch", "gate", "add"))
        _choose("activation", activation, tuple(NONLINEARITIES))
        _choose("soma_activation", soma_activation, tuple(NONLINEARITIES))
        self.basal, self.somas, self.apical, self.branches = basal, somas, apical, branches
        self.inputs, self.synapses, self.grid = inputs, synapses, grid
        self.soma, self.apical_mode, self.activation, self.soma_activation = (
            soma,
            apical_mode,
            activation,
            soma_activation,
        )
        if grid is not None and (
            inputs != "local" or math.prod(grid) != basal or math.isqrt(synapses) ** 2 != synapses
        ):
            raise UsageError(
                f"a grid of {grid} needs inputs='local', {math.prod(grid)} basal inputs and a square number of "
                f"synapses, not inputs='{inputs}', {basal} and {synapses}; leave grid at None for windows on a line"
            )
        if apical_mode == "branch" and apical:
            if inputs == "local" or (inputs == "disjoint" and (basal % branches or apical % branches)):
                raise UsageError(
                    f"apical_mode 'branch' joins equal blocks or random inputs of both: {basal} and {apical} inputs do "
                    f"not split into {branches} branches, or inputs is 'local'. Try: apical_mode='gate'"
                )
            self.basal_branches, self.apical_branches = self._tree(basal + apical), None
        else:
            self.basal_branches = self._tree(basal, grid)
            self.apical_branches = self._tree(apical) if apical else None
        scale = GAINS[activation] / math.sqrt(branches)
        signs = torch.randint(0, 2, (2, branches, somas)) * 2.0 - 1.0
        self.strength = nn.Parameter(signs[0] * scale if soma == "sum" else torch.ones(branches, somas))
        self.apical_strength = None if self.apical_branches is None else nn.Parameter(signs[1] * scale)
        self.threshold = nn.Parameter(torch.zeros(somas))

    def _tree(self, width: int, grid: tuple[int, int] | None = None) -> DisjointBranches | SparseBranches:
        if self.inputs == "disjoint":
            return DisjointBranches(inputs=width, somas=self.somas, branches=self.branches)
        shape: tuple[int, ...] = ()
        window: tuple[int, ...] | None = None
        if self.inputs == "local":
            side = math.isqrt(self.synapses)
            shape, window = (grid, (side, side)) if grid else ((width,), (self.synapses,))
        return SparseBranches(
            inputs=width, somas=self.somas, branches=self.branches, synapses=self.synapses, shape=shape, window=window
        )

    def forward(self, basal: Tensor, apical: Tensor | None = None) -> Tensor:
        if (apical is None) != (self.apical == 0):
            raise UsageError(f"this dendritic layer was built for an apical input of width {self.apical}")
        f, g = NONLINEARITIES[self.activation], NONLINEARITIES[self.soma_activation]
        tokens, context = basal.flatten(0, -2), None if apical is None else apical.flatten(0, -2)
        other, context = (context, None) if self.apical_mode == "branch" else (None, context)
        if context is not None and self._gates_at_once(tokens):
            return self._gated(tokens, context).unflatten(0, basal.shape[:-1])
        if self.soma == "sum":
            drive = self._driven(tokens, other)
        else:
            branch = f(self.basal_branches(self._joined(tokens, other))) * self.strength.unsqueeze(1)
            drive = F.logsigmoid(branch).sum(0).exp() + self.threshold
        if context is None or self.apical_branches is None or self.apical_strength is None:
            return g(drive).unflatten(0, basal.shape[:-1])
        apex = self._summed(self.apical_branches, self.apical_strength, context)
        y = g(drive + apex) if self.apical_mode == "add" else g(drive) * (1 + torch.tanh(apex))
        return y.unflatten(0, basal.shape[:-1])

    def _driven(self, x: Tensor, other: Tensor | None) -> Tensor:
        """z_s + theta_s (N, somas), from x (N, basal) and what lies on the same branches, (N, apical)."""
        tree = self.basal_branches
        if isinstance(tree, DisjointBranches) and self._blocked(x) and (other is None or other.dtype == x.dtype):
            return disjoint_branch_sum(tree.tree(x, self.strength, other), SLOPE, self.threshold)
        return self._summed(tree, self.strength, self._joined(x, other)) + self.threshold

    def _joined(self, basal: Tensor, apical: Tensor | None) -> Tensor:
        """(N, basal + apical), the inputs of each branch side by side."""
        if apical is None:
            return basal
        if self.inputs != "disjoint":
            return torch.cat([basal, apical], -1)
        blocks = (x.unflatten(-1, (self.branches, -1)) for x in (basal, apical))
        return torch.cat([*blocks], -1).flatten(1)

    def _summed(self, tree: DisjointBranches | SparseBranches, strength: Tensor, x: Tensor) -> Tensor:
        """sum_b c_sb f(u_sb), (N, inputs) -> (N, somas)."""
        if self._blocked(x):
            return tree.leaky_sum(x, strength, SLOPE)
        return branch_sum_reference(tree(x), strength, NONLINEARITIES[self.activation])

    def _blocked(self, x: Tensor) -> bool:
        """Whether the cache-blocked form applies: it is a processor's, and pays from a full block on. A GPU, autocast,
        half precision and few tokens take the equation as it stands."""
        return (
            self.activation == "leaky_relu"
            and x.device.type == "cpu"
            and x.dtype == self.strength.dtype
            and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu")
            and x.shape[0] * self.strength.numel() >= branch_sum.CACHED
        )

    def _gates_at_once(self, x: Tensor) -> bool:
        """Whether drive, apex and gate can be formed together, block by block."""
        plain = self.soma == "sum" and self.apical_mode == "gate" and self.soma_activation == "linear"
        return plain and self.inputs == "disjoint" and self._blocked(x)

    def _gated(self, basal: Tensor, apical: Tensor) -> Tensor:
        assert isinstance(self.basal_branches, DisjointBranches)
        assert isinstance(self.apical_branches, DisjointBranches)
        assert self.apical_strength is not None
        return gated_branch_sum(
            self.basal_branches.tree(basal, self.strength),
            self.apical_branches.tree(apical, self.apical_strength),
            self.threshold,
            SLOPE,
        )

    def extra_repr(self) -> str:
        apical = f", apical {self.apical_mode}" if self.apical else ""
        return f"{self.somas} somas, {self.branches} branches, {self.inputs} inputs{apical}"

    def macs_per_token(self) -> int:
        """Multiply-accumulates of one forward pass per token: synapses and branch strengths, no masked zeros."""
        trees = [tree for tree in (self.basal_branches, self.apical_branches) if tree is not None]
        return sum(tree.weight.numel() + tree.threshold.numel() for tree in trees)


def _choose(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"dendritic layer: {option} '{value}' is unknown.{nearest(value, known)} It takes: {', '.join(known)}"
        )
