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

from neurons.dendrites.branch_sum import branch_sum_reference
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
    - apical_mode ``gate``: ``y_s = g(z_s + theta_s) (1 + tanh a_s)``: the apex cannot fire the neuron, it amplifies it
      up to twofold or silences it; a silent apex is a gain of 1. After Larkum 2013 (apical amplification) and the
      multiplicative context gate of Iyer et al. 2022 (active dendrites).
      apical_mode ``add``: ``y_s = g(z_s + a_s + theta_s)``, the point-neuron reading of the same wiring.
    - inputs ``disjoint``: branch b sees block b of the inputs.  ``sparse``: each branch sees ``synapses`` random inputs
      (Chavlis & Poirazi 2025: 16 synapses, leaky ReLU of slope 0.1 in branch and soma).

    ``activation`` is f, ``soma_activation`` is g; where the result goes straight into a residual stream choose
    ``linear`` for g. c, theta and the weights are trained. Unit-variance inputs give potentials and somatic sums of
    unit variance; half of the branches start inhibitory (c < 0) so that a sum of branches starts without an offset.

    UsageError for unknown names, or widths that do not split into equal branches.
    """

    def __init__(
        self,
        *,
        basal: int,
        somas: int,
        apical: int = 0,
        branches: int = 4,
        inputs: Literal["disjoint", "sparse"] = "disjoint",
        synapses: int = 16,
        soma: Literal["sum", "and"] = "sum",
        apical_mode: Literal["gate", "add"] = "gate",
        activation: Literal["leaky_relu", "gelu", "tanh", "linear"] = "leaky_relu",
        soma_activation: Literal["leaky_relu", "gelu", "tanh", "linear"] = "leaky_relu",
    ) -> None:
        super().__init__()
        _choose("inputs", inputs, ("disjoint", "sparse"))
        _choose("soma", soma, ("sum", "and"))
        _choose("apical_mode", apical_mode, ("gate", "add"))
        _choose("activation", activation, tuple(NONLINEARITIES))
        _choose("soma_activation", soma_activation, tuple(NONLINEARITIES))
        self.basal, self.somas, self.apical, self.branches = basal, somas, apical, branches
        self.inputs, self.synapses, self.soma, self.apical_mode = inputs, synapses, soma, apical_mode
        self.activation, self.soma_activation = activation, soma_activation
        self.basal_branches = self._tree(basal)
        self.apical_branches = self._tree(apical) if apical else None
        scale = GAINS[activation] / math.sqrt(branches)
        signs = torch.randint(0, 2, (2, branches, somas)) * 2.0 - 1.0
        self.strength = nn.Parameter(signs[0] * scale if soma == "sum" else torch.ones(branches, somas))
        self.apical_strength = nn.Parameter(signs[1] * scale) if apical else None
        self.threshold = nn.Parameter(torch.zeros(somas))

    def _tree(self, width: int) -> DisjointBranches | SparseBranches:
        if self.inputs == "disjoint":
            return DisjointBranches(inputs=width, somas=self.somas, branches=self.branches)
        return SparseBranches(inputs=width, somas=self.somas, branches=self.branches, synapses=self.synapses)

    def forward(self, basal: Tensor, apical: Tensor | None = None) -> Tensor:
        if (apical is None) != (self.apical_branches is None):
            raise UsageError(f"this dendritic layer was built for an apical input of width {self.apical}")
        f, g = NONLINEARITIES[self.activation], NONLINEARITIES[self.soma_activation]
        tokens = basal.flatten(0, -2)
        if self.soma == "sum":
            drive = self._summed(self.basal_branches, self.strength, tokens) + self.threshold
        else:
            branch = f(self.basal_branches(tokens)) * self.strength.unsqueeze(1)
            drive = F.logsigmoid(branch).sum(0).exp() + self.threshold
        if apical is None or self.apical_branches is None or self.apical_strength is None:
            return g(drive).unflatten(0, basal.shape[:-1])
        apex = self._summed(self.apical_branches, self.apical_strength, apical.flatten(0, -2))
        y = g(drive + apex) if self.apical_mode == "add" else g(drive) * (1 + torch.tanh(apex))
        return y.unflatten(0, basal.shape[:-1])

    def _summed(self, tree: DisjointBranches | SparseBranches, strength: Tensor, x: Tensor) -> Tensor:
        """sum_b c_sb f(u_sb), (N, inputs) -> (N, somas)."""
        # The cache-blocked form is a processor's; a GPU and autocast take the equation as it stands.
        blocked = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self.activation == "leaky_relu" and blocked:
            return tree.leaky_sum(x, strength, SLOPE)
        return branch_sum_reference(tree(x), strength, NONLINEARITIES[self.activation])

    def macs_per_token(self) -> int:
        """Multiply-accumulates of one forward pass per token: synapses and branch strengths, no masked zeros."""
        trees = [tree for tree in (self.basal_branches, self.apical_branches) if tree is not None]
        return sum(tree.weight.numel() + tree.threshold.numel() for tree in trees)


def _choose(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"dendritic layer: {option} '{value}' is unknown.{nearest(value, known)} It takes: {', '.join(known)}"
        )
