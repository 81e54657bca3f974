"""Attention by topology: a token hears those whose recent path through space is linked with its own."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.heads import Heads, remember, start_of
from neurons.manifold.knot import gauss_integral
from neurons.manifold.recompute import recomputed
from neurons.model import Attention
from neurons.specs import Context, zero_masked

QUERIES = 512  # rows of the score matrix that exist at a time
THICKNESS = 0.1  # of the curve, whose points have unit scale


class TopologyGate(nn.Module):
    """Logits (B, H, T, k) of k preselected keys: ``q.k / sqrt(d) + log sigmoid(gate (|Lk| - threshold))``.

    The stream is projected to three dimensions, where the last ``window`` tokens of each token are an arc; Lk is the
    Gauss integral of the arcs of query and key, in turns. Preselected are the token itself and those of the greatest
    q.k, averaged over the heads: the scores cost n^2 D as in any attention but nothing is kept of them, the integrals
    n k window^2. One curve serves all heads; gate (0 at the start: the bias is then a constant) and threshold are per
    head. Causal: keys and arcs reach back only. Parameters: 3 D + 2 H.
    """

    def __init__(self, owner: str, *, width: int, heads: int, causal: bool, candidates: int, window: int) -> None:
        super().__init__()
        if candidates < 1 or window < 2:
            raise UsageError(
                f"attention '{owner}' needs candidates >= 1 and window >= 2, not {candidates} and {window}. "
                "Try: candidates=24, window=4"
            )
        self.causal, self.candidates, self.window = causal, candidates, window
        self.curve = nn.Linear(width, 3, bias=False)
        self.gate = nn.Parameter(torch.zeros(heads))
        self.threshold = nn.Parameter(torch.full((heads,), 0.1))
        nn.init.normal_(self.curve.weight, std=width**-0.5)

    def arcs(self, points: Tensor) -> Tensor:
        """points (B, S, 3) -> (B, S, window, 3): each token and those before it; before the first it stands still."""
        first = points[:, :1].expand(-1, self.window - 1, -1)
        return torch.cat([first, points], 1).unfold(1, self.window, 1).mT

    @torch.no_grad()
    def select(self, q: Tensor, k: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Indices (B, T, k) of the preselected keys and what is added to their logits; q (B, H, T, d), k (B, H, S, d).

        Added is ``log(1 - exp(best score left out - score))``: a key enters and leaves with weight 0, so the output is
        continuous and rounding cannot make it jump. -inf for keys that may not be read.
        """
        scale = q.shape[1] * math.sqrt(q.shape[-1])
        q, k = (part.detach().float().transpose(1, 2).flatten(2) for part in (q, k))
        before, keys = k.shape[1] - q.shape[1], torch.arange(k.shape[1], device=k.device)
        count = min(self.candidates, k.shape[1])
        found, added = [], []
        for start in range(0, q.shape[1], QUERIES):
            scores = q[:, start : start + QUERIES] @ k.mT / scale
            rows = before + start + torch.arange(scores.shape[1], device=k.device)[:, None]
            if mask is not None:
                scores = scores.masked_fill(~mask[:, None, :], -math.inf)
            if self.causal:
                scores = scores.masked_fill(keys > rows, -math.inf)
            scores = scores.masked_fill(keys == rows, math.inf)
            best = scores.topk(min(count + 1, k.shape[1]), -1)
            kept, index = best.values[..., :count], best.indices[..., :count]
            fade = torch.zeros_like(kept)
            if count < k.shape[1]:
                fade = torch.log(-torch.expm1(best.values[..., count:] - kept))
            found.append(index)
            added.append(torch.where(kept == -math.inf, -math.inf, fade))
        return torch.cat(found, 1), torch.cat(added, 1)

    def forward(self, q: Tensor, k: Tensor, points: Tensor, index: Tensor, added: Tensor) -> Tensor:
        arcs = self.arcs(points)
        theirs = pick_rows(arcs.flatten(2), index).unflatten(-1, (self.window, 3))
        mine = arcs[:, -q.shape[2] :, None]
        linked = gauss_integral(mine, theirs, thickness=THICKNESS).abs()[:, None]
        keys = pick_rows(k.transpose(1, 2).flatten(2), index).unflatten(-1, (q.shape[1], -1))
        # Products and sums along the row: a batched matrix product of one query each is three times as slow.
        products = (q.transpose(1, 2)[:, :, None] * keys).sum(-1).permute(0, 3, 1, 2)
        bias = F.logsigmoid(self.gate[:, None, None] * (linked - self.threshold[:, None, None]))
        return products / math.sqrt(q.shape[-1]) + bias + added[:, None]


def pick_rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, S, n), index (B, T, k) -> (B, T, k, n)."""
    first = torch.arange(x.shape[0], device=x.device)[:, None, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).view(*index.shape, x.shape[-1])


def curve_so_far(gate: TopologyGate, x: Tensor, context: Context, label: str, streams: bool) -> Tensor:
    """The curve's points (B, S, 3) of all tokens so far; a causal layer keeps them beside its keys and values."""
    points = gate.curve(x).to(torch.promote_types(x.dtype, torch.float32))
    if streams:
        before: Tensor | None = context.state.get(f"{label}.curve")
        points = points if before is None else torch.cat([before, points], 1)
        context.next_state[f"{label}.curve"] = points.detach()
    return points


@ATTENTIONS.register("knot")
class KnotAttention(Attention):
    """Softmax over k preselected keys, with a bias for those whose arcs are linked with the query's; see TopologyGate.

    Masked keys are not read, and padding stands on the right. Queries, keys and values are gathered again in backward.

    candidates: k.     window: tokens in an arc.     position: ``rope`` turns queries and keys, or ``none``.
    label: of the cache (keys, values, points of the curve) through which a causal layer goes on from chunk to chunk.
    Cost per token: n D for the scores, k D to mix, k window^2 integrals. Parameters: 4 D^2 + 7 D + 2 H.
    Sources: Gauss 1833; Klenin & Langowski 2000; Vaswani et al. 2017.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        candidates: int = 24,
        window: int = 4,
        position: Literal["none", "rope"] = "none",
        label: str = "knot",
    ) -> None:
        super().__init__()
        self.width, self.is_causal, self.heads = width, causal, heads
        self.candidates, self.window, self.position, self.label = candidates, window, position, label
        self.projections = Heads("knot", width=width, heads=heads, causal=causal, position=position)
        self.topology = TopologyGate(
            "knot", width=width, heads=heads, causal=causal, candidates=candidates, window=window
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.projections.split(x, start_of(context, self.label))
        k, v, mask = remember(context, self.label, k, v) if self.is_causal else (k, v, context.mask)
        points = curve_so_far(self.topology, x, context, self.label, self.is_causal)
        index, added = self.topology.select(q, k, mask)
        mixed = recomputed(self._mix, q, k, v, points, index, added)
        return zero_masked(self.projections.join(mixed), context.mask)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, points: Tensor, index: Tensor, added: Tensor) -> Tensor:
        weights = self.topology(q, k, points, index, added).softmax(-1).to(v.dtype)
        values = pick_rows(v.transpose(1, 2).flatten(2), index).unflatten(-1, (v.shape[1], -1))
        return (weights.permute(0, 2, 3, 1)[..., None] * values).sum(2).transpose(1, 2)
