"""What follows attention in a block: a multilayer perceptron or a Kolmogorov-Arnold network of its size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from neurons.manifold.kan import KAN, Basis
from neurons.manifold.recompute import recomputed

KINDS = ("mlp", "wavekan", "fasterkan", "chebykan")


class GeluMLP(nn.Module):
    """``W2 gelu(W1 x)``: (..., width) -> (..., width). The activation is computed again in backward: of the two hidden
    tensors only one is kept. Parameters: 2 width hidden + hidden + width."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = recomputed(self._contracted, self.expand(x))
        return out

    def _contracted(self, hidden: Tensor) -> Tensor:
        return self.contract(F.gelu(hidden))


def feed_forward(
    kind: str, *, width: int, hidden: int, wavelet: Literal["mexican_hat", "dog"] = "mexican_hat", centres: int = 4
) -> GeluMLP | KAN:
    """One of ``KINDS``, each with about the parameters of an MLP of ``hidden`` units."""
    if kind == "mlp":
        return GeluMLP(width=width, hidden=hidden)
    bases: dict[str, Basis] = {"wavekan": wavelet, "fasterkan": "switch", "chebykan": "chebyshev"}
    return KAN(width=width, hidden=hidden, basis=bases[kind], centres=centres)
