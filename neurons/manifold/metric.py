"""Distance on a learned manifold: a low-rank metric for attention, and a chain of projections of E7's sizes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.heads import Heads, remember, start_of
from neurons.model import Attention
from neurons.specs import Context, zero_masked


class LowRankMetric(nn.Module):
    """``G = I + U U^T`` on vectors of ``size``, positive definite whatever U is; U (size, rank) is learned."""

    def __init__(self, size: int, *, rank: int = 4) -> None:
        super().__init__()
        if rank < 1:
            raise UsageError(f"a metric's rank is 1 or more, not {rank}. Try: rank=4")
        self.rank = rank
        self.factor = nn.Parameter(torch.randn(size, rank) * size**-0.5)

    def matrix(self) -> Tensor:
        return torch.eye(len(self.factor)).to(self.factor) + self.factor @ self.factor.T

    def embed(self, x: Tensor) -> Tensor:
        """(x, U^T x): Euclidean distances of these are G's distances of x, and so are inner products."""
        return torch.cat([x, x @ self.factor.to(x.dtype)], -1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """sqrt((a - b)^T G (a - b)), (...)."""
        return self.embed(a - b).norm(dim=-1)


@ATTENTIONS.register("metric")
class MetricAttention(Attention):
    """Attention by closeness on a manifold: logits from ``- d_G(q, k)^2 / 2`` with a low-rank metric G = I + U U^T.

    The square expands to ``q.G k - k.G k / 2`` and a term that softmax does not see, so torch's fused kernel runs it on
    d + rank + 1 channels. A gate per head leads from inner products to distances:

        logits_ij sqrt(d) = q.k + gate (q.U U^T k - k.G k / 2)

    0 at the start (plain attention), 1 is the metric, where no key can win by its length alone. The heads share G;
    layers share it too where the model gives them one ``metric``.

    rank: of U.     position: ``rope``, ``alibi`` or ``none``.     label: of the cache of keys and values.
    Parameters: 4 D^2 + 4 D, d rank + H. Sources: Tenenbaum et al. 2000 (manifolds); Vaswani et al. 2017.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        rank: int = 4,
        position: Literal["none", "rope", "alibi"] = "none",
        label: str = "metric",
    ) -> None:
        super().__init__()
        self.width, self.is_causal, self.heads, self.rank = width, causal, heads, rank
        self.position, self.label = position, label
        self.projections = Heads("metric", width=width, heads=heads, causal=causal, position=position)
        self.metric = LowRankMetric(width // heads, rank=rank)
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.projections.split(x, start_of(context, self.label))
        k, v, mask = remember(context, self.label, k, v) if self.is_causal else (k, v, context.mask)
        size, gate = q.shape[-1], self.gate[:, None, None].to(q.dtype)
        along = self.metric.embed(k)
        length = along.square().sum(-1, keepdim=True) / 2
        keys = torch.cat([along, -length], -1)
        queries = torch.cat([q, gate * (q @ self.metric.factor.to(q.dtype)), gate.expand(*q.shape[:-1], 1)], -1)
        values = F.pad(v, (0, self.rank + 1))  # the fused kernel wants one size for all three
        mixed = self.projections.attend(queries, keys, values, mask, scale=1 / math.sqrt(size))[..., :size]
        return zero_masked(self.projections.join(mixed), context.mask)


class ManifoldChain(nn.Module):
    """Down a chain of learned maps of E7's, E6's and D5's sizes and back: (B, T, D) -> an update (B, T, D).

        c = M3 silu(M2 silu(M1 x)),   133 -> 78 -> 45,   y = gate * U c

    E7-*sized*: the maps are free matrices; the algebra itself is in :mod:`neurons.manifold.e7`. The gate, per channel,
    is 0 at the start. Parameters: 178 D + 13884 + 256 + D or so.
    """

    SIZES = (133, 78, 45)

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width
        first, second, third = self.SIZES
        self.down = nn.Sequential(
            nn.Linear(width, first), nn.SiLU(), nn.Linear(first, second), nn.SiLU(), nn.Linear(second, third)
        )
        self.up = nn.Linear(third, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(width))

    def coordinates(self, x: Tensor) -> Tensor:
        """(B, T, 45)."""
        found: Tensor = self.down(x)
        return found

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return zero_masked(self.gate * self.up(self.coordinates(x)), context.mask)
