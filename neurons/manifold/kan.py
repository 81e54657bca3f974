"""Kolmogorov-Arnold layers: learned functions on the edges, from wavelets, switches or Chebyshev polynomials."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError, nearest
from neurons.manifold.recompute import recomputed

Basis = Literal["dog", "mexican_hat", "switch", "chebyshev"]
REACH = 2.5  # the grid of centres spans +-REACH: where a layer norm's output lies


def dog(z: Tensor) -> Tensor:
    """Derivative of a Gaussian, ``-sqrt(2) pi^(-1/4) z exp(-z^2 / 2)``: zero mean, unit energy."""
    return -math.sqrt(2) * math.pi**-0.25 * z * torch.exp(-0.5 * z.square())


def mexican_hat(z: Tensor) -> Tensor:
    """Ricker wavelet, ``2 / (sqrt(3) pi^(1/4)) (1 - z^2) exp(-z^2 / 2)``: zero mean, unit energy."""
    square = z.square()
    return 2 / (math.sqrt(3) * math.pi**0.25) * (1 - square) * torch.exp(-0.5 * square)


def switch(z: Tensor) -> Tensor:
    """Reflectional switch of FasterKAN, ``1 - tanh(z)^2``."""
    return 1 - torch.tanh(z).square()


SHAPES = {"dog": dog, "mexican_hat": mexican_hat, "switch": switch}


def chebyshev(x: Tensor, count: int) -> Tensor:
    """T_1 .. T_count of tanh(x) in a last axis, by ``T_{n+1} = 2 u T_n - T_{n-1}`` (T_0 is the bias's)."""
    u = torch.tanh(x)
    found = [torch.ones_like(u), u]
    for _ in range(count - 1):
        found.append(2 * u * found[-1] - found[-2])
    return torch.stack(found[1:], -1)


class KANLayer(nn.Module):
    """``y_o = b_o + sum_i [ u_oi silu(x_i) + sum_g w_oig phi_g(x_i) ]``: (..., inputs) -> (..., outputs).

    basis: ``dog`` and ``mexican_hat`` (WaveKAN), ``switch`` (FasterKAN): phi_g(x) = shape((x - c_g) / s_g), centres c_g
    on a grid over +-2.5 and scales s_g of its spacing, both learned and shared by all inputs, so that nothing of size
    (tokens, inputs, outputs) exists; ``chebyshev`` (ChebyKAN): phi_g = T_g(tanh x). centres: G, of functions per edge.
    The functions are computed again in backward. Parameters: outputs (inputs (1 + G) + 1), and 2 G with a grid.
    Sources: Liu et al. 2024 (KAN); Bozorgasl & Chen 2024 (Wav-KAN); Delis 2024 (FasterKAN); SS et al. 2024 (ChebyKAN).
    """

    def __init__(self, inputs: int, outputs: int, *, basis: Basis = "mexican_hat", centres: int = 4) -> None:
        super().__init__()
        if basis not in get_args(Basis):
            raise UsageError(f"unknown KAN basis '{basis}'.{nearest(basis, get_args(Basis))} Try: mexican_hat")
        if centres < 2:
            raise UsageError(f"a KAN edge needs 2 centres or more, not {centres}. Try: centres=4")
        self.inputs, self.outputs, self.basis, self.centres = inputs, outputs, basis, centres
        self.linear = nn.Linear(inputs, outputs)
        self.edges = nn.Linear(inputs * centres, outputs, bias=False)
        nn.init.normal_(self.edges.weight, std=(inputs * centres) ** -0.5)
        if basis != "chebyshev":
            spacing = 2 * REACH / (centres - 1)
            self.centre = nn.Parameter(torch.linspace(-REACH, REACH, centres))
            self.log_scale = nn.Parameter(torch.full((centres,), math.log(spacing)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = recomputed(self._mapped, x)
        return out

    def functions(self, x: Tensor) -> Tensor:
        """phi (..., inputs, G)."""
        if self.basis == "chebyshev":
            return chebyshev(x, self.centres)
        return SHAPES[self.basis]((x[..., None] - self.centre) * torch.exp(-self.log_scale))

    def _mapped(self, x: Tensor) -> Tensor:
        return self.linear(F.silu(x)) + self.edges(self.functions(x).flatten(-2).to(x.dtype))


class KAN(nn.Module):
    """Two KAN layers in place of an MLP of ``hidden`` units and (about) its parameters: (..., width) -> (..., width).

    The middle has hidden / (1 + centres) units, behind a layer norm that keeps it on the grid. Measured on Kolmogorov's
    superposition exp((sin pi(x1^2 + x2^2) + sin pi(x3^2 + x4^2)) / 2), 2,000 parameters, 400 steps, three seeds, error
    relative to the spread: mexican_hat .09, dog .11, switch .12, an MLP with layer norms .19, chebyshev .42. That says
    nothing of language. A step takes about twice an MLP's time and keeps a quarter of its activations.
    """

    def __init__(self, *, width: int, hidden: int, basis: Basis = "mexican_hat", centres: int = 4) -> None:
        super().__init__()
        self.width, self.hidden, self.basis, self.centres = width, hidden, basis, centres
        middle = max(1, round(hidden / (1 + centres)))
        self.expand = KANLayer(width, middle, basis=basis, centres=centres)
        self.norm = nn.LayerNorm(middle)
        self.contract = KANLayer(middle, width, basis=basis, centres=centres)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.norm(self.expand(x)))
