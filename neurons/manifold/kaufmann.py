"""Kaufmann attention: waves of excitation that diffuse among the tokens which attention links."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.fitzhugh_nagumo import StepSize, imex, rest_state
from neurons.manifold.heads import Heads, sdpa
from neurons.manifold.kan import KANLayer
from neurons.manifold.knot_attention import TopologyGate
from neurons.manifold.recompute import recomputed
from neurons.model import Attention
from neurons.specs import Context, zero_masked

Averaging = Callable[[Tensor], Tensor]


def reaction_diffusion(
    u: Tensor,
    w: Tensor,
    stimulus: Tensor,
    average: Averaging,
    *,
    diffusion: Tensor,
    dt: Tensor,
    steps: int,
    a: float = 0.7,
    b: float = 0.8,
    tau: float = 12.5,
) -> tuple[Tensor, Tensor]:
    """FitzHugh-Nagumo cells coupled by ``-D (1 - P) u``, where ``average(u)`` is P u; second-order IMEX steps.

    On a chain with P the mean of both neighbours a front from the rest state u1 to the excited u3 over the threshold u2
    (the roots of the cubic at fixed w) moves at ``sqrt(D / 12) (u1 + u3 - 2 u2)`` sites per unit of time, for D large.
    """

    def spread(u: Tensor) -> Tensor:
        return diffusion * (average(u) - u)

    return imex(u, w, stimulus, dt=dt, steps=steps, a=a, b=b, tau=tau, coupling=spread)


@ATTENTIONS.register("kaufmann")
class KaufmannAttention(Attention):
    """Soliton(TopologyGate(q, k) . Landscape(v)): reaction and diffusion on the graph of who attends to whom.

        u' = u - u^3 / 3 - w + I - D (1 - P) u,   w' = (u + 0.7 - 0.8 w) / 12.5,   I = P L(v)
        y = P v + gate (u_K - u_rest)

    P is row-stochastic: softmax attention, over all (causal) keys or over those that the knot gate picks and weights by
    linking. L is a row of wavelet functions (WaveKAN) on the values. 1 - P is a graph Laplacian, so what one token's
    cells do reaches those that attend to it, and theirs in turn. From rest, K steps; D = sigmoid(...) < 1 and
    dt = sigmoid(...) / 2 per channel keep dt times its spectrum below 1, where the explicit steps are stable. The gate,
    a number per channel, is 0 at the start: the layer is then plain attention over the support. Nothing of the
    trajectory is kept for backward.

    support: ``knot`` or ``all``.     candidates, window: of the knot gate.     basis, centres: of the landscape.
    substeps: K.     A causal layer takes whole sequences: the cells of all tokens move at once.
    Cost: K + 2 products with P. Parameters: 4 D^2 + 4 D, (2 + centres) d^2 or so, the knot gate's.
    Sources: FitzHugh 1961; Keener & Sneyd 2009 (waves); Kaufmann attention of the NeuroManifold seed documents.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        support: Literal["knot", "all"] = "knot",
        candidates: int = 24,
        window: int = 4,
        basis: Literal["dog", "mexican_hat", "switch", "chebyshev"] = "mexican_hat",
        centres: int = 4,
        substeps: int = 2,
        position: Literal["none", "rope"] = "none",
    ) -> None:
        super().__init__()
        if support not in ("knot", "all"):
            raise UsageError(f"unknown support '{support}' of kaufmann attention. Try: knot, all")
        self.width, self.is_causal, self.heads, self.support = width, causal, heads, support
        self.candidates, self.window, self.basis, self.centres = candidates, window, basis, centres
        self.substeps, self.position = substeps, position
        self.projections = Heads("kaufmann", width=width, heads=heads, causal=causal, position=position)
        size = width // heads
        self.topology: TopologyGate | None = None
        if support == "knot":
            self.topology = TopologyGate(
                "kaufmann", width=width, heads=heads, causal=causal, candidates=candidates, window=window
            )
        self.landscape = KANLayer(size, size, basis=basis, centres=centres)
        self.dt = StepSize(size)
        self.diffusion = StepSize(size, most=1.0, first=0.5)
        self.gate = nn.Parameter(torch.zeros(size))
        self.rest = rest_state()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        q, k, v = self.projections.split(x)
        if self.topology is None:
            mixed = recomputed(self._over_all, q, k, v, self.projections.weights(q, k, context.mask))
        else:
            points = self.topology.curve(x).to(torch.promote_types(x.dtype, torch.float32))
            index, added = self.topology.select(q, k, context.mask)
            mixed = recomputed(self._over_knots, q, k, v, points, index, added)
        return zero_masked(self.projections.join(mixed.to(x.dtype)), context.mask)

    def _over_all(self, q: Tensor, k: Tensor, v: Tensor, added: Tensor | None) -> Tensor:
        causal = self.is_causal and added is None
        q, k, v = q.float(), k.float(), v.float()
        return self.react(v, lambda u: sdpa(q, k, u, added, causal))

    def _over_knots(self, q: Tensor, k: Tensor, v: Tensor, points: Tensor, index: Tensor, added: Tensor) -> Tensor:
        assert self.topology is not None
        logits = self.topology(q, k, points, index, added).float()
        rows = logits.new_full((*q.shape[:3], k.shape[2]), -math.inf)
        weights = rows.scatter(-1, index[:, None].expand_as(logits), logits).softmax(-1)
        return self.react(v.float(), lambda u: weights @ u)

    def react(self, v: Tensor, average: Averaging) -> Tensor:
        """P v plus the gated response; v (B, H, T, d), ``average(u)`` is P u."""
        given = average(torch.cat([v, self.landscape(v).float()], -1))
        values, stimulus = given.split(v.shape[-1], -1)
        u, w = (torch.full_like(v, rest) for rest in self.rest)
        u, _ = reaction_diffusion(
            u, w, stimulus, average, diffusion=self.diffusion(), dt=self.dt(), steps=self.substeps
        )
        return values + self.gate * (u - self.rest[0])
